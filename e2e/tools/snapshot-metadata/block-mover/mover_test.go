// Package blockmover does to a cluster what Velero's block mover does, object by object and in its order: a full backup, an incremental one whose base
// is deleted by then, a restore as raw blocks, and the restored volume as a file system under another PersistentVolume.
//
// Velero's own code is the model: the CSI snapshot exposer and the generic restore exposer of 1.19 (pkg/exposer). Its mover's pods ask for blocks by upstream's
// iterator, as changed-blocks does; the object store is a file in a volume. What Velero decides by its configuration is as docs/velero.md says.
package blockmover

import (
	"fmt"
	"testing"

	snapshot "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	driver        = "csi.windlass.dev"
	volumeSize    = "128Mi"
	snapshotClass = "windlass-local"
	// backupPVC and restorePVC of the node-agent's configuration: the class of the backup's claim; the target's own with ignoreDelayBinding.
	backupClass = "windlass-immediate"
	targetClass = "windlass"

	allowModeChange = "snapshot.storage.kubernetes.io/allow-volume-mode-change"
	restoreLabel    = "velero.io/dynamic-pv-restore"
	identity        = "storage.kubernetes.io/csiProvisionerIdentity"
)

// What is written between the backups, and what an incremental one may move at most: the file system's own blocks are among it.
const (
	writtenBytes = 2 << 20
	movedAtMost  = 16 << 20
)

func TestBlockMover(t *testing.T) {
	c := connect(t)
	c.makeMoverNamespace()

	c.createClaim(c.app, claim{name: "data", class: targetClass, size: volumeSize})
	c.startPod(c.app, pod{name: "application", mounts: map[string]string{"data": "/data"}, command: "trap 'exit 0' TERM; sleep 100000 & wait"})
	c.waitPod(c.app, "application", core.PodRunning)
	c.runPod(c.app, pod{name: "fill", mounts: map[string]string{"data": "/data"}, command: `
		for i in 1 2 3 4; do dd if=/dev/urandom of=/data/file$i bs=1M count=4; done
		mkdir -p /data/deep/er; hostname >/data/deep/er/file; sync`})
	c.createClaim(c.mover, claim{name: "store", class: backupClass, size: "200Mi"})
	c.runPod(c.mover, pod{name: "make-store", mounts: map[string]string{"store": "/store"}, command: "truncate -s " + volumeSize[:len(volumeSize)-1] + " /store/image"})

	full := c.backUp("full", "")
	c.runPod(c.app, pod{name: "change", mounts: map[string]string{"data": "/data"}, command: fmt.Sprintf(
		"dd if=/dev/urandom of=/data/new bs=%d count=1; rm /data/file1; sync", writtenBytes)})
	incremental := c.backUp("incremental", full.handle)
	if incremental.bytes < writtenBytes || incremental.bytes >= movedAtMost {
		t.Fatalf("the incremental backup moved %d bytes; %d were written", incremental.bytes, writtenBytes)
	}
	if full.handle == incremental.handle {
		t.Fatalf("both snapshots had the handle %s", full.handle)
	}

	before := c.runPod(c.app, pod{name: "before", mounts: map[string]string{"data": "/data"}, command: checksum})
	c.deletePod(c.app, "application")
	lost := c.deleteClaim(c.app, "data")
	c.waitVolumeGone(lost)

	volume := c.restore()
	after := c.runPod(c.app, pod{name: "after", mounts: map[string]string{"data": "/data"}, command: checksum})
	if before != after {
		t.Fatalf("the restored files have the checksum %s, not %s", after, before)
	}
	// For whoever looks at what the volume takes.
	fmt.Printf("restored volume %s\n", volume)
}

const checksum = "cd /data; find . -type f ! -path './lost+found/*' -exec sha256sum {} + | sort -k 2 | sha256sum | cut -c 1-64"

// backup is what a later one needs to know of it.
type backup struct {
	// handle of its snapshot, which is deleted.
	handle string
	// bytes that it moved.
	bytes int64
}

// backUp is a DataUpload named `name`; with the handle of the one before, an incremental one.
func (c *cluster) backUp(name, parent string) backup {
	c.t.Helper()
	// Velero's server: a snapshot beside the claim.
	source := c.createSnapshot(c.app, &snapshot.VolumeSnapshot{
		ObjectMeta: meta.ObjectMeta{Name: "velero-data-" + name, Labels: map[string]string{"velero.io/backup-name": name}},
		Spec: snapshot.VolumeSnapshotSpec{
			Source:                  snapshot.VolumeSnapshotSource{PersistentVolumeClaimName: to("data")},
			VolumeSnapshotClassName: to(snapshotClass),
		},
	})
	// The node-agent waits for it, makes a second pair of objects for its handle, and takes the first away without the snapshot.
	source = c.waitSnapshotReady(c.app, source.Name)
	content := c.content(*source.Status.BoundVolumeSnapshotContentName)
	handle := *content.Status.SnapshotHandle
	c.createSnapshot(c.mover, &snapshot.VolumeSnapshot{
		ObjectMeta: meta.ObjectMeta{Name: name, Annotations: source.Annotations},
		Spec: snapshot.VolumeSnapshotSpec{
			Source:                  snapshot.VolumeSnapshotSource{VolumeSnapshotContentName: &name},
			VolumeSnapshotClassName: source.Spec.VolumeSnapshotClassName,
		},
	})
	c.createContent(&snapshot.VolumeSnapshotContent{
		ObjectMeta: meta.ObjectMeta{Name: name, Annotations: map[string]string{allowModeChange: "true"}},
		Spec: snapshot.VolumeSnapshotContentSpec{
			VolumeSnapshotRef:       core.ObjectReference{Namespace: c.mover, Name: name, Kind: "VolumeSnapshot", APIVersion: snapshot.SchemeGroupVersion.String()},
			Source:                  snapshot.VolumeSnapshotContentSource{SnapshotHandle: &handle},
			DeletionPolicy:          snapshot.VolumeSnapshotContentDelete,
			Driver:                  content.Spec.Driver,
			VolumeSnapshotClassName: content.Spec.VolumeSnapshotClassName,
		},
	})
	c.retainContent(content.Name)
	c.deleteSnapshot(c.app, source.Name)
	c.deleteContent(content.Name)
	// Raw blocks of it, whatever the volume's mode was, of the size that the snapshot says.
	c.createClaim(c.mover, claim{
		name: name, class: backupClass, size: source.Status.RestoreSize.String(), block: true,
		from: &core.TypedLocalObjectReference{APIGroup: to(snapshot.GroupName), Kind: "VolumeSnapshot", Name: name},
	})
	ask := fmt.Sprintf("/changed-blocks -namespace %s -snapshot %s -from /dev/disk -to /store/image", c.mover, name)
	if parent != "" {
		ask += " -base-handle " + parent
	}
	answer := c.runPod(c.mover, pod{
		name: name, devices: map[string]string{name: "/dev/disk"}, mounts: map[string]string{"store": "/store"}, program: true,
		command: ask + " && cmp /dev/disk /store/image",
	})
	// Its clean-up: after the pod the claim, then the snapshot, this time with what it stands for.
	c.waitVolumeGone(c.deleteClaim(c.mover, name))
	c.deleteSnapshot(c.mover, name)
	c.waitContentGone(name)
	return backup{handle: handle, bytes: c.movedBytes(answer)}
}

// restore is a DataDownload into the claim `data`, which Velero has made before; the driver's name of the volume is returned.
func (c *cluster) restore() string {
	c.t.Helper()
	// It waits behind a selector, so that nobody provisions for it.
	labels := map[string]string{restoreLabel: c.app + ".data.abcde"}
	c.createClaim(c.app, claim{name: "data", class: targetClass, size: volumeSize, selector: labels})
	const name = "download"
	c.createClaim(c.mover, claim{name: name, class: targetClass, size: volumeSize, block: true})
	c.runPod(c.mover, pod{
		name: name, devices: map[string]string{name: "/dev/disk"}, mounts: map[string]string{"store": "/store"}, keep: true,
		command: "dd if=/store/image of=/dev/disk bs=1M conv=fsync && cmp /store/image /dev/disk",
	})
	// Of another mode than the target, so the volume gets another PersistentVolume.
	volume := c.volumeOf(c.mover, name)
	reclaim := volume.Spec.PersistentVolumeReclaimPolicy
	c.retainVolume(volume.Name)
	c.deletePod(c.mover, name)
	c.waitDetached(volume.Name)
	c.deleteClaim(c.mover, name)
	c.deleteVolume(volume.Name)

	made := &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: string(volume.UID), Labels: labels, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": driver}},
		Spec:       *volume.Spec.DeepCopy(),
	}
	made.Spec.VolumeMode = to(core.PersistentVolumeFilesystem)
	made.Spec.PersistentVolumeReclaimPolicy = reclaim
	made.Spec.ClaimRef = &core.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: c.app, Name: "data"}
	made.Spec.CSI.FSType = "ext4"
	delete(made.Spec.CSI.VolumeAttributes, identity)
	c.createVolume(made)
	c.patchClaim(c.app, "data", types.MergePatchType, fmt.Sprintf(
		`{"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": null, "pv.kubernetes.io/bound-by-controller": null}}, "spec": {"volumeName": %q}}`, made.Name))
	c.waitVolumeBound(made.Name)
	return volume.Name
}

package blockmover

import (
	"context"

	snapshot "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func (c *cluster) createSnapshot(namespace string, wanted *snapshot.VolumeSnapshot) *snapshot.VolumeSnapshot {
	c.t.Helper()
	made, err := c.snapshots.VolumeSnapshots(namespace).Create(c.ctx, wanted, meta.CreateOptions{})
	c.must("the snapshot "+wanted.Name, err)
	return made
}

func (c *cluster) waitSnapshotReady(namespace, name string) *snapshot.VolumeSnapshot {
	c.t.Helper()
	var found *snapshot.VolumeSnapshot
	c.wait("the snapshot "+name+" is ready", func(ctx context.Context) (bool, error) {
		var err error
		found, err = c.snapshots.VolumeSnapshots(namespace).Get(ctx, name, meta.GetOptions{})
		if err != nil || found.Status == nil {
			return false, err
		}
		return found.Status.ReadyToUse != nil && *found.Status.ReadyToUse && found.Status.BoundVolumeSnapshotContentName != nil, nil
	})
	return found
}

func (c *cluster) deleteSnapshot(namespace, name string) {
	c.t.Helper()
	c.gone("the snapshot "+name,
		func(ctx context.Context) error {
			return c.snapshots.VolumeSnapshots(namespace).Delete(ctx, name, meta.DeleteOptions{})
		},
		func(ctx context.Context) error {
			_, err := c.snapshots.VolumeSnapshots(namespace).Get(ctx, name, meta.GetOptions{})
			return err
		})
}

func (c *cluster) content(name string) *snapshot.VolumeSnapshotContent {
	c.t.Helper()
	found, err := c.snapshots.VolumeSnapshotContents().Get(c.ctx, name, meta.GetOptions{})
	c.must("the content "+name, err)
	return found
}

func (c *cluster) createContent(wanted *snapshot.VolumeSnapshotContent) {
	c.t.Helper()
	_, err := c.snapshots.VolumeSnapshotContents().Create(c.ctx, wanted, meta.CreateOptions{})
	c.must("the content "+wanted.Name, err)
}

func (c *cluster) retainContent(name string) {
	c.t.Helper()
	patch := []byte(`{"spec": {"deletionPolicy": "Retain"}}`)
	_, err := c.snapshots.VolumeSnapshotContents().Patch(c.ctx, name, types.MergePatchType, patch, meta.PatchOptions{})
	c.must("keeping what is behind the content "+name, err)
}

func (c *cluster) deleteContent(name string) {
	c.t.Helper()
	// It may have gone with its snapshot.
	if err := c.snapshots.VolumeSnapshotContents().Delete(c.ctx, name, meta.DeleteOptions{}); !apierrors.IsNotFound(err) {
		c.must("deleting the content "+name, err)
	}
	c.waitContentGone(name)
}

func (c *cluster) waitContentGone(name string) {
	c.t.Helper()
	c.gone("the content "+name, nil, func(ctx context.Context) error {
		_, err := c.snapshots.VolumeSnapshotContents().Get(ctx, name, meta.GetOptions{})
		return err
	})
}

// volumeOf waits until the claim is bound.
func (c *cluster) volumeOf(namespace, claim string) *core.PersistentVolume {
	c.t.Helper()
	var volume string
	c.wait("the claim "+claim+" is bound", func(ctx context.Context) (bool, error) {
		found, err := c.kube.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, claim, meta.GetOptions{})
		if err != nil {
			return false, err
		}
		volume = found.Spec.VolumeName
		return found.Status.Phase == core.ClaimBound, nil
	})
	found, err := c.kube.CoreV1().PersistentVolumes().Get(c.ctx, volume, meta.GetOptions{})
	c.must("the volume "+volume, err)
	return found
}

func (c *cluster) createVolume(wanted *core.PersistentVolume) {
	c.t.Helper()
	_, err := c.kube.CoreV1().PersistentVolumes().Create(c.ctx, wanted, meta.CreateOptions{})
	c.must("the volume "+wanted.Name, err)
}

func (c *cluster) retainVolume(name string) {
	c.t.Helper()
	patch := []byte(`{"spec": {"persistentVolumeReclaimPolicy": "Retain"}}`)
	_, err := c.kube.CoreV1().PersistentVolumes().Patch(c.ctx, name, types.MergePatchType, patch, meta.PatchOptions{})
	c.must("keeping the volume "+name, err)
}

func (c *cluster) deleteVolume(name string) {
	c.t.Helper()
	// It may have gone with its claim.
	if err := c.kube.CoreV1().PersistentVolumes().Delete(c.ctx, name, meta.DeleteOptions{}); !apierrors.IsNotFound(err) {
		c.must("deleting the volume "+name, err)
	}
	c.waitVolumeGone(name)
}

func (c *cluster) waitVolumeGone(name string) {
	c.t.Helper()
	c.gone("the volume "+name, nil, func(ctx context.Context) error {
		_, err := c.kube.CoreV1().PersistentVolumes().Get(ctx, name, meta.GetOptions{})
		return err
	})
}

func (c *cluster) waitVolumeBound(name string) {
	c.t.Helper()
	c.wait("the volume "+name+" is bound", func(ctx context.Context) (bool, error) {
		found, err := c.kube.CoreV1().PersistentVolumes().Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return false, err
		}
		return found.Status.Phase == core.VolumeBound, nil
	})
}

// waitDetached is what Velero waits for between two PersistentVolumes of a volume. A driver that needs no attaching has nothing to wait for.
func (c *cluster) waitDetached(name string) {
	c.t.Helper()
	c.wait("the volume "+name+" is detached", func(ctx context.Context) (bool, error) {
		attachments, err := c.kube.StorageV1().VolumeAttachments().List(ctx, meta.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, attachment := range attachments.Items {
			if source := attachment.Spec.Source.PersistentVolumeName; source != nil && *source == name {
				return false, nil
			}
		}
		return true, nil
	})
}

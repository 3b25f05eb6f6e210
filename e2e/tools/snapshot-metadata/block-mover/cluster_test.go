package blockmover

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/kubernetes-csi/external-snapshot-metadata/pkg/iterator"
	snapshot "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/typed/volumesnapshot/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

var (
	namespace = flag.String("namespace", "", "namespace of the application, which exists; the mover's is made beside it")
	image     = flag.String("image", "", "image with a shell and busybox's programs")
	program   = flag.String("program", "", "path of changed-blocks on the nodes")
	kubectl   = flag.String("kubeconfig", "", "configuration of an administrator")
	patience  = flag.Duration("patience", 3*time.Minute, "how long one state is waited for")
)

const interval = 200 * time.Millisecond

// cluster is what the test may do. Whatever fails ends the test.
type cluster struct {
	t          *testing.T
	ctx        context.Context
	kube       kubernetes.Interface
	snapshots  snapshots.SnapshotV1Interface
	app, mover string
}

func to[T any](value T) *T { return &value }

func connect(t *testing.T) *cluster {
	t.Helper()
	if *namespace == "" || *image == "" || *program == "" || *kubectl == "" {
		t.Fatal("give -namespace, -image, -program and -kubeconfig")
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubectl)
	if err != nil {
		t.Fatal(err)
	}
	clients, err := iterator.BuildClients(config)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{
		t: t, ctx: t.Context(), kube: clients.KubeClient, snapshots: clients.SnapshotClient.SnapshotV1(),
		app: *namespace, mover: *namespace + "-velero",
	}
}

func (c *cluster) must(what string, err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
}

// wait asks until the answer is yes. An error is an end; one that may pass is no error.
func (c *cluster) wait(what string, ask func(context.Context) (bool, error)) {
	c.t.Helper()
	c.must(what, wait.PollUntilContextTimeout(c.ctx, interval, *patience, true, ask))
}

// gone deletes, if there is something to delete, and waits until it is not found.
func (c *cluster) gone(what string, remove, get func(context.Context) error) {
	c.t.Helper()
	if remove != nil {
		if err := remove(c.ctx); !apierrors.IsNotFound(err) {
			c.must("deleting "+what, err)
		}
	}
	c.wait(what+" is gone", func(ctx context.Context) (bool, error) {
		err := get(ctx)
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}

// makeMoverNamespace makes what Velero's installation makes: the mover's namespace, and an account that may ask for changed blocks there. All of it
// goes at the end, and what it looked like is told if the test failed.
func (c *cluster) makeMoverNamespace() {
	c.t.Helper()
	core1 := c.kube.CoreV1()
	_, err := core1.Namespaces().Create(c.ctx, &core.Namespace{ObjectMeta: meta.ObjectMeta{Name: c.mover}}, meta.CreateOptions{})
	c.must("the mover's namespace", err)
	roles := c.kube.RbacV1()
	c.t.Cleanup(func() {
		// The test's own context has ended.
		ctx := context.Background()
		if c.t.Failed() {
			c.look(ctx)
		}
		err := errors.Join(
			core1.Namespaces().Delete(ctx, c.mover, meta.DeleteOptions{}),
			roles.ClusterRoleBindings().Delete(ctx, c.mover, meta.DeleteOptions{}),
			roles.ClusterRoles().Delete(ctx, c.mover, meta.DeleteOptions{}),
			wait.PollUntilContextTimeout(ctx, interval, *patience, true, func(ctx context.Context) (bool, error) {
				_, err := core1.Namespaces().Get(ctx, c.mover, meta.GetOptions{})
				return apierrors.IsNotFound(err), nil
			}))
		if err != nil {
			c.t.Errorf("taking the mover away: %v", err)
		}
	})
	_, err = core1.ServiceAccounts(c.mover).Create(c.ctx, &core.ServiceAccount{ObjectMeta: meta.ObjectMeta{Name: "mover"}}, meta.CreateOptions{})
	c.must("the mover's account", err)
	_, err = roles.ClusterRoles().Create(c.ctx, &rbac.ClusterRole{
		ObjectMeta: meta.ObjectMeta{Name: c.mover},
		Rules: []rbac.PolicyRule{
			{APIGroups: []string{snapshot.GroupName}, Resources: []string{"volumesnapshots", "volumesnapshotcontents"}, Verbs: []string{"get", "list", "watch"}},
			{APIGroups: []string{"cbt.storage.k8s.io"}, Resources: []string{"snapshotmetadataservices"}, Verbs: []string{"get", "list"}},
			{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, Verbs: []string{"create"}},
		},
	}, meta.CreateOptions{})
	c.must("the mover's role", err)
	_, err = roles.ClusterRoleBindings().Create(c.ctx, &rbac.ClusterRoleBinding{
		ObjectMeta: meta.ObjectMeta{Name: c.mover},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: c.mover},
		Subjects:   []rbac.Subject{{Kind: rbac.ServiceAccountKind, Namespace: c.mover, Name: "mover"}},
	}, meta.CreateOptions{})
	c.must("the mover's binding", err)
}

// look tells what is in the mover's namespace.
func (c *cluster) look(ctx context.Context) {
	events, err := c.kube.CoreV1().Events(c.mover).List(ctx, meta.ListOptions{})
	if err != nil {
		c.t.Logf("no events: %v", err)
		return
	}
	for _, event := range events.Items {
		c.t.Logf("%s %s: %s: %s", event.InvolvedObject.Kind, event.InvolvedObject.Name, event.Reason, event.Message)
	}
}

type claim struct {
	name, class, size string
	block             bool
	selector          map[string]string
	from              *core.TypedLocalObjectReference
}

func (c *cluster) createClaim(namespace string, wanted claim) {
	c.t.Helper()
	mode := core.PersistentVolumeFilesystem
	if wanted.block {
		mode = core.PersistentVolumeBlock
	}
	object := &core.PersistentVolumeClaim{
		ObjectMeta: meta.ObjectMeta{Name: wanted.name},
		Spec: core.PersistentVolumeClaimSpec{
			AccessModes:      []core.PersistentVolumeAccessMode{core.ReadWriteOnce},
			StorageClassName: &wanted.class,
			VolumeMode:       &mode,
			DataSource:       wanted.from,
			Resources:        core.VolumeResourceRequirements{Requests: core.ResourceList{core.ResourceStorage: resource.MustParse(wanted.size)}},
		},
	}
	if wanted.selector != nil {
		object.Spec.Selector = &meta.LabelSelector{MatchLabels: wanted.selector}
	}
	_, err := c.kube.CoreV1().PersistentVolumeClaims(namespace).Create(c.ctx, object, meta.CreateOptions{})
	c.must("the claim "+wanted.name, err)
}

func (c *cluster) patchClaim(namespace, name string, kind types.PatchType, patch string) {
	c.t.Helper()
	_, err := c.kube.CoreV1().PersistentVolumeClaims(namespace).Patch(c.ctx, name, kind, []byte(patch), meta.PatchOptions{})
	c.must("patching the claim "+name, err)
}

// deleteClaim waits until it is gone, and says which volume it had.
func (c *cluster) deleteClaim(namespace, name string) string {
	c.t.Helper()
	claims := c.kube.CoreV1().PersistentVolumeClaims(namespace)
	found, err := claims.Get(c.ctx, name, meta.GetOptions{})
	c.must("the claim "+name, err)
	c.gone("the claim "+name,
		func(ctx context.Context) error { return claims.Delete(ctx, name, meta.DeleteOptions{}) },
		func(ctx context.Context) error { _, err := claims.Get(ctx, name, meta.GetOptions{}); return err })
	return found.Spec.VolumeName
}

// pod is one that runs a command with claims of its namespace: mounts by their claim's name, devices likewise.
type pod struct {
	name, command   string
	mounts, devices map[string]string
	// With changed-blocks at /changed-blocks, and the mover's account.
	program bool
	// It is not deleted when it has ended.
	keep bool
}

func (c *cluster) startPod(namespace string, wanted pod) {
	c.t.Helper()
	container := core.Container{
		Name: "c", Image: *image, ImagePullPolicy: core.PullNever, Command: []string{"sh", "-euc", wanted.command},
	}
	object := &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: wanted.name},
		Spec:       core.PodSpec{RestartPolicy: core.RestartPolicyNever, TerminationGracePeriodSeconds: to(int64(2))},
	}
	add := func(name string, source core.VolumeSource) {
		object.Spec.Volumes = append(object.Spec.Volumes, core.Volume{Name: name, VolumeSource: source})
	}
	of := func(claim string) core.VolumeSource {
		return core.VolumeSource{PersistentVolumeClaim: &core.PersistentVolumeClaimVolumeSource{ClaimName: claim}}
	}
	for name, path := range wanted.mounts {
		add(name, of(name))
		container.VolumeMounts = append(container.VolumeMounts, core.VolumeMount{Name: name, MountPath: path})
	}
	for name, path := range wanted.devices {
		add(name, of(name))
		container.VolumeDevices = append(container.VolumeDevices, core.VolumeDevice{Name: name, DevicePath: path})
	}
	if wanted.program {
		object.Spec.ServiceAccountName = "mover"
		add("program", core.VolumeSource{HostPath: &core.HostPathVolumeSource{Path: *program, Type: to(core.HostPathFile)}})
		container.VolumeMounts = append(container.VolumeMounts, core.VolumeMount{Name: "program", MountPath: "/changed-blocks", ReadOnly: true})
	}
	object.Spec.Containers = []core.Container{container}
	_, err := c.kube.CoreV1().Pods(namespace).Create(c.ctx, object, meta.CreateOptions{})
	c.must("the pod "+wanted.name, err)
}

// runPod waits until the pod has ended well, and returns what it printed, errors included, without the last line's end.
func (c *cluster) runPod(namespace string, wanted pod) string {
	c.t.Helper()
	c.startPod(namespace, wanted)
	c.waitPod(namespace, wanted.name, core.PodSucceeded)
	printed := c.printed(c.ctx, namespace, wanted.name)
	if !wanted.keep {
		c.deletePod(namespace, wanted.name)
	}
	return strings.TrimRight(printed, "\n")
}

func (c *cluster) waitPod(namespace, name string, phase core.PodPhase) {
	c.t.Helper()
	c.wait(fmt.Sprintf("the pod %s is %s", name, phase), func(ctx context.Context) (bool, error) {
		found, err := c.kube.CoreV1().Pods(namespace).Get(ctx, name, meta.GetOptions{})
		if err != nil {
			return false, err
		}
		if found.Status.Phase != phase && (found.Status.Phase == core.PodFailed || found.Status.Phase == core.PodSucceeded) {
			return false, fmt.Errorf("it is %s, and printed: %s", found.Status.Phase, c.printed(ctx, namespace, name))
		}
		return found.Status.Phase == phase, nil
	})
}

func (c *cluster) printed(ctx context.Context, namespace, name string) string {
	c.t.Helper()
	stream, err := c.kube.CoreV1().Pods(namespace).GetLogs(name, &core.PodLogOptions{}).Stream(ctx)
	c.must("what the pod "+name+" printed", err)
	defer stream.Close()
	printed, err := io.ReadAll(stream)
	c.must("what the pod "+name+" printed", err)
	return string(printed)
}

func (c *cluster) deletePod(namespace, name string) {
	c.t.Helper()
	pods := c.kube.CoreV1().Pods(namespace)
	c.gone("the pod "+name,
		func(ctx context.Context) error { return pods.Delete(ctx, name, meta.DeleteOptions{}) },
		func(ctx context.Context) error { _, err := pods.Get(ctx, name, meta.GetOptions{}); return err })
}

// movedBytes reads the last line of changed-blocks.
func (c *cluster) movedBytes(answer string) int64 {
	c.t.Helper()
	var ranges, bytes, size int64
	last := answer[strings.LastIndexByte(answer, '\n')+1:]
	if _, err := fmt.Sscanf(last, "end %d %d %d", &ranges, &bytes, &size); err != nil {
		c.t.Fatalf("changed-blocks ended with %q: %v", last, err)
	}
	if bytes > size {
		c.t.Fatalf("%d bytes of a volume of %d were moved", bytes, size)
	}
	return bytes
}

// Command changed-blocks is a backup program's half of changed block tracking, by upstream's own iterator: it asks the SnapshotMetadata service
// of a driver what a snapshot holds, or what changed since another, and prints it, or copies just that from one device to another.
//
// It runs in a pod, with the pod's service account. What the service must keep is checked here for every answer: ranges ascend and do not
// overlap, none reaches beyond the volume, and the volume's size and the kind of ranges never change within a stream.
//
// Output: a line `OFFSET SIZE` for each range, in bytes, and at the end one line `end RANGES BYTES VOLUME-SIZE`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/kubernetes-csi/external-snapshot-metadata/pkg/api"
	"github.com/kubernetes-csi/external-snapshot-metadata/pkg/iterator"
	"k8s.io/client-go/rest"
)

// limit is longer than any volume of the tests takes. A service that never ends its stream must not hold up what waits for this.
const limit = 2 * time.Minute

// ranges checks, prints and copies what arrives.
type ranges struct {
	from, to *os.File
	count    int
	bytes    int64
	end      int64
	size     int64
	kind     api.BlockMetadataType
	done     bool
}

func (r *ranges) SnapshotMetadataIteratorRecord(number int, record iterator.IteratorMetadata) error {
	if number == 1 {
		r.size, r.kind = record.VolumeCapacityBytes, record.BlockMetadataType
	}
	if record.VolumeCapacityBytes != r.size || record.BlockMetadataType != r.kind {
		return fmt.Errorf("message %d says size %d and kind %v, earlier ones said %d and %v",
			number, record.VolumeCapacityBytes, record.BlockMetadataType, r.size, r.kind)
	}
	for _, block := range record.BlockMetadata {
		offset, size := block.GetByteOffset(), block.GetSizeBytes()
		switch {
		case size <= 0:
			return fmt.Errorf("the range at %d has %d bytes", offset, size)
		case offset < r.end:
			return fmt.Errorf("the range at %d begins before %d, where the one before it ends", offset, r.end)
		case offset+size > r.size:
			return fmt.Errorf("the range at %d ends at %d, beyond the volume's %d bytes", offset, offset+size, r.size)
		}
		r.count++
		r.bytes += size
		r.end = offset + size
		fmt.Println(offset, size)
		if err := r.copy(offset, size); err != nil {
			return err
		}
	}
	return nil
}

func (r *ranges) SnapshotMetadataIteratorDone(int) error {
	r.done = true
	return nil
}

func (r *ranges) copy(offset, size int64) error {
	if r.from == nil {
		return nil
	}
	written, err := io.Copy(io.NewOffsetWriter(r.to, offset), io.NewSectionReader(r.from, offset, size))
	if err != nil {
		return fmt.Errorf("copying %d bytes at %d: %w", size, offset, err)
	}
	if written != size {
		return fmt.Errorf("only %d of %d bytes at %d could be read", written, size, offset)
	}
	return nil
}

func run() error {
	namespace := flag.String("namespace", "", "namespace of the snapshot")
	snapshot := flag.String("snapshot", "", "name of the VolumeSnapshot")
	baseHandle := flag.String("base-handle", "", "CSI handle of the snapshot to compare with; it may be deleted")
	base := flag.String("base", "", "name of the VolumeSnapshot to compare with")
	maximum := flag.Int("max-results", 0, "ranges in a message; 0: as the driver likes")
	start := flag.Int64("start", 0, "byte to begin at")
	from := flag.String("from", "", "device to copy the ranges from")
	to := flag.String("to", "", "device or file to copy them to")
	flag.Parse()
	if (*from == "") != (*to == "") {
		return errors.New("give both --from and --to, or neither")
	}
	found := &ranges{}
	if *from != "" {
		var err error
		if found.from, err = os.Open(*from); err != nil {
			return err
		}
		defer found.from.Close()
		if found.to, err = os.OpenFile(*to, os.O_WRONLY, 0); err != nil {
			return err
		}
		defer found.to.Close()
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	clients, err := iterator.BuildClients(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err = iterator.GetSnapshotMetadata(ctx, iterator.Args{
		Clients:          clients,
		Emitter:          found,
		Namespace:        *namespace,
		SnapshotName:     *snapshot,
		PrevSnapshotID:   *baseHandle,
		PrevSnapshotName: *base,
		StartingOffset:   *start,
		MaxResults:       int32(*maximum),
	})
	if err != nil {
		return err
	}
	if !found.done {
		return errors.New("the stream ended before its end")
	}
	if found.to != nil {
		if err := found.to.Sync(); err != nil {
			return err
		}
	}
	fmt.Println("end", found.count, found.bytes, found.size)
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "changed-blocks:", err)
		os.Exit(1)
	}
}

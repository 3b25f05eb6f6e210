# A restore, or a clone, that is larger than its source has a file system of its own size, of ext4 as of XFS.
kilobytes() { inside_pod "$1" "df -k $2 | tail -n 1 | awk '{ print \$(NF - 4) }'"; }
claim small 96Mi
claim middle 400Mi class=windlass-xfs
run_pod writer small:/small middle:/middle
fill writer /small
fill writer /middle
small=$(checksum writer /small)
middle=$(checksum writer /middle)
snapshot of-small small
snapshot of-middle middle
claim small-large 300Mi from=VolumeSnapshot/of-small
claim middle-large 700Mi class=windlass-xfs from=VolumeSnapshot/of-middle
claim small-clone 200Mi from=PersistentVolumeClaim/small
run_pod reader small-large:/small middle-large:/middle small-clone:/clone
equal "$(checksum reader /small)" "$small" "the restored files on ext4"
equal "$(checksum reader /middle)" "$middle" "the restored files on XFS"
equal "$(checksum reader /clone)" "$small" "the cloned files"
[ "$(kilobytes reader /small)" -gt 250000 ] || fail "ext4 has only $(kilobytes reader /small) KiB of 300 MiB"
[ "$(kilobytes reader /middle)" -gt 600000 ] || fail "XFS has only $(kilobytes reader /middle) KiB of 700 MiB"
[ "$(kilobytes reader /clone)" -gt 160000 ] || fail "the clone has only $(kilobytes reader /clone) KiB of 200 MiB"
leaves_nothing

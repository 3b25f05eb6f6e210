# Six restores at once all go to the node that has the pool, though another node is as free, and none waits for ever.
claim data 64Mi
run_pod writer data:/data
fill writer /data 2
before=$(checksum writer /data)
snapshot monday data
names=(one two three four five six)
for name in "${names[@]}"; do
    claim "of-$name" 64Mi from=VolumeSnapshot/monday
    pod "$name" "of-$name:/data"
done
ready "${names[@]}"
for name in "${names[@]}"; do
    equal "$(k get pod "$name" -o jsonpath='{.spec.nodeName}')" node1 "the node of $name"
    equal "$(checksum "$name" /data)" "$before" "the files of $name"
done
leaves_nothing

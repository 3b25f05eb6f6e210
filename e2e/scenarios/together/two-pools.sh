# A class that asks for a pool gets volumes of that pool; capacity is told for each class; a pool that nobody has is refused by name.
key() { kubectl get pv "$(volume_of "$1")" -o json | jq -r '[.spec.nodeAffinity.required.nodeSelectorTerms[].matchExpressions[].key] | join(" ")'; }
claim one 64Mi
claim two 64Mi class=windlass-fast
run_pod user one:/one two:/two
fill user /one 2
fill user /two 2
one=$(key one)
two=$(key two)
grep -Eq '^topology.windlass.dev/pool-[a-z0-9]+$' <<<"$one" || fail "the volume is bound to something else than its pool: $one"
[ "$one" != "$two" ] || fail "both volumes are in $one"
in_driver windlass pool status --endpoint unix:///csi/csi.sock --output json >/dev/null
kubectl apply -f - >/dev/null <<END
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: $namespace-nowhere}
provisioner: $driver
parameters: {pool: nowhere}
volumeBindingMode: Immediate
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: $namespace-colour}
provisioner: $driver
parameters: {colour: red}
volumeBindingMode: Immediate
END
said() { k get events -o json | jq -e --arg claim "$1" --arg words "$2" 'any(.items[]; .involvedObject.name == $claim and (.message | contains($words)))'; }
claim nowhere 64Mi class="$namespace-nowhere"
claim colour 64Mi class="$namespace-colour"
until_true "the claim says which pool there is not" said nowhere nowhere
until_true "the claim says which parameter is unknown" said colour colour
kubectl delete storageclass "$namespace-nowhere" "$namespace-colour" >/dev/null
leaves_nothing

# Before helm installs anything it says what this cluster does not allow: two nodes, no node, a namespace for unprivileged pods.
says() {
    local wanted=$1 output
    shift
    output=$(e2e/cluster/with-cluster helm install another deploy/chart --dry-run=server -f e2e/values.yaml "$@" 2>&1) && fail "it would be installed"
    grep -qF -- "$wanted" <<<"$output" || fail "helm said: $output"
}
says "matches node1, node2" --namespace "$namespace" --set-json 'nodeSelector={"kubernetes.io/os":"linux"}'
says "matches no node" --namespace "$namespace" --set-json 'nodeSelector={"kubernetes.io/hostname":"elsewhere"}'
kubectl label namespace "$namespace" pod-security.kubernetes.io/enforce=baseline >/dev/null
says "pod-security.kubernetes.io/enforce=privileged" --namespace "$namespace"
equal "$(k get all,configmap,secret,serviceaccount -o name | grep -v -e kube-root-ca.crt -e serviceaccount/default)" '' "what helm left behind"
leaves_nothing

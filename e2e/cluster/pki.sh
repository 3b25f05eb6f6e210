#!/usr/bin/env bash
# The cluster's certificate authority, certificates of its parts, their kubeconfigs, the key of service account tokens. Does nothing when they
# are there. All of it is made here, is good for this cluster alone, and goes with its directory.
set -euo pipefail
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/env.sh"

keys=$run/pki
[ ! -e "$keys/complete" ] || exit 0
rm -rf "$keys" "$run/kubeconfig"
umask 077
mkdir -p "$keys" "$run/kubeconfig"
cd "$keys"

openssl ecparam -genkey -name prime256v1 -noout -out ca.key
openssl req -x509 -new -key ca.key -subj /CN=windlass-e2e -days 3650 -out ca.crt \
    -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature

# certificate NAME SUBJECT [ALTERNATIVE_NAMES]
certificate() {
    openssl ecparam -genkey -name prime256v1 -noout -out "$1.key"
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    {
        printf 'keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=clientAuth,serverAuth\n'
        [ -z "${3-}" ] || printf 'subjectAltName=%s\n' "$3"
    } >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile "$1.ext" -out "$1.crt" 2>"$1.log" \
        || { cat "$1.log" >&2; exit 1; }
    rm "$1.csr" "$1.ext" "$1.log"
}

# kubeconfig NAME CERTIFICATE
kubeconfig() {
    cat >"$run/kubeconfig/$1.conf" <<END
apiVersion: v1
kind: Config
clusters: [{name: windlass-e2e, cluster: {server: "https://$node_network.1:$api_port", certificate-authority: $keys/ca.crt}}]
users: [{name: $1, user: {client-certificate: $keys/$2.crt, client-key: $keys/$2.key}}]
contexts: [{name: windlass-e2e, context: {cluster: windlass-e2e, user: $1}}]
current-context: windlass-e2e
END
}

server=kubernetes.default
certificate apiserver /CN=kube-apiserver \
    "DNS:localhost,DNS:kubernetes,DNS:$server,DNS:$server.svc,DNS:$server.svc.cluster.local,IP:127.0.0.1,IP:$service_network.1,IP:$node_network.1"
certificate admin /O=system:masters/CN=admin
certificate controller-manager /CN=system:kube-controller-manager
certificate scheduler /CN=system:kube-scheduler
certificate proxy /CN=system:kube-proxy
certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
certificate front-proxy-client /CN=front-proxy-client
for name in admin controller-manager scheduler proxy; do kubeconfig "$name" "$name"; done
for node in $nodes; do
    certificate "kubelet$node" "/O=system:nodes/CN=system:node:node$node" "DNS:node$node,DNS:localhost,IP:127.0.0.1,IP:$node_network.$node"
    kubeconfig "kubelet$node" "kubelet$node"
done
openssl genrsa -out service-accounts.key 2048 2>/dev/null
openssl rsa -in service-accounts.key -pubout -out service-accounts.pub 2>/dev/null
touch complete

# What the Secrets of repositories held is in no log, event, object, pool or file of the agent at the end of the run, and whoever looks for it finds it where it is.
[ -n "$(kubectl -n backups get secret -o name)" ] || secret offsite
no_secret_seen
# What looks for it does find it: said by a pod, it is in a log.
pod teller command="echo $canary"
k wait --for=jsonpath='{.status.phase}'=Succeeded pod/teller --timeout="${patience}s" >/dev/null
if (no_secret_seen) 2>/dev/null; then fail "what a pod has said was not found"; fi
k delete pod teller --wait >/dev/null
kubectl delete namespace "$namespace" --wait=false >/dev/null

# A node whose mounts nobody would see refuses to start, and says so, with what to do, where the pod is described.
apply <<END
apiVersion: v1
kind: Pod
metadata: {name: node}
spec:
  restartPolicy: Never
  nodeSelector: {kubernetes.io/hostname: node2}
  containers:
    - name: node
      image: $(kubectl -n $driver_namespace get daemonset windlass-node -o jsonpath='{.spec.template.spec.containers[0].image}')
      imagePullPolicy: Never
      args: [node, --standalone, --no-repositories, --pool-config=/config/pools.json, --node-id=node2, --root=/var/lib/kubelet,
        "--endpoint=unix:///csi/csi.sock", --kubelet-registration=/registration, --kubelet-endpoint=/csi/csi.sock]
      securityContext: {privileged: true}
      terminationMessagePolicy: FallbackToLogsOnError
      # As the chart's, but for mountPropagation.
      volumeMounts:
        - {name: kubelet, mountPath: /var/lib/kubelet}
        - {name: csi, mountPath: /csi}
        - {name: registration, mountPath: /registration}
        - {name: config, mountPath: /config}
  volumes:
    - {name: kubelet, hostPath: {path: /var/lib/kubelet}}
    - {name: csi, emptyDir: {}}
    - {name: registration, emptyDir: {}}
    - {name: config, configMap: {name: pools}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pools}
data: {pools.json: '{"pools": []}'}
END
k wait --for=jsonpath='{.status.phase}'=Failed pod/node --timeout="${patience}s" >/dev/null
message=$(k get pod node -o jsonpath='{.status.containerStatuses[0].state.terminated.message}')
grep -q 'is not shared' <<<"$message" && grep -q 'mountPropagation: Bidirectional' <<<"$message" || fail "it says: $message"
leaves_nothing

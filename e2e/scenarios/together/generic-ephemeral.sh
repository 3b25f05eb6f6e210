# A generic ephemeral volume comes and goes with its pod.
apply <<END
apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 2
  containers:
    - {name: c, image: "$busybox", imagePullPolicy: Never, command: [sh, -c, "sleep 100000"], volumeMounts: [{name: scratch, mountPath: /scratch}]}
  volumes:
    - name: scratch
      ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], storageClassName: windlass, resources: {requests: {storage: 64Mi}}}}}
END
ready user
inside_pod user 'dd if=/dev/urandom of=/scratch/file bs=1M count=8 conv=fsync 2>/dev/null'
volume=$(volume_of user-scratch)
end_pods user
until_true "the claim went with its pod" refused k get pvc user-scratch
until_true "the volume went with its claim" refused kubectl get pv "$volume"
leaves_nothing

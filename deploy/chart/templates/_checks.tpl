{{/*
What the schema cannot say about the values, and what the cluster must have. Each ends the rendering with a sentence that names the value or
the thing that is missing. Nothing that is the cluster's own is ever installed by this chart: two snapshot controllers fight.
*/}}
{{- define "windlass.checks" -}}
{{- range $index, $pool := .Values.pools }}
{{- $what := printf "pools[%d] (%s)" $index $pool.name }}
{{- $kinds := 0 }}
{{- range list $pool.directory $pool.image $pool.device }}{{ if . }}{{ $kinds = add $kinds 1 }}{{ end }}{{ end }}
{{- if ne (int $kinds) 1 }}{{ fail (printf "%s: give exactly one of directory, image and device" $what) }}{{ end }}
{{- if and $pool.image (not $pool.imageSize) }}{{ fail (printf "%s: an image needs an imageSize, such as 100Gi" $what) }}{{ end }}
{{- if and $pool.imageSize (not $pool.image) }}{{ fail (printf "%s: imageSize is of an image; a directory or device has the size it has" $what) }}{{ end }}
{{- end }}
{{- include "windlass.checkClasses" . }}
{{- include "windlass.checkCluster" . }}
{{- end }}

{{- define "windlass.checkClasses" -}}
{{- $pools := list }}
{{- range .Values.pools }}{{ $pools = append $pools .name }}{{ end }}
{{- $repositories := list }}
{{- range .Values.repositories }}
{{- if has .name $repositories }}{{ fail (printf "repositories: %s is there twice" .name) }}{{ end }}
{{- $repositories = append $repositories .name }}
{{- end }}
{{- $known := join ", " $repositories | default "none" }}
{{- $names := list }}{{ $defaults := list }}
{{- range .Values.storageClasses }}
{{- if has .name $names }}{{ fail (printf "storageClasses: %s is there twice" .name) }}{{ end }}
{{- $names = append $names .name }}
{{- if .default }}{{ $defaults = append $defaults .name }}{{ end }}
{{- if and .pool (not (has .pool $pools)) }}
{{- fail (printf "storageClasses: %s asks for pool %s, but pools has only %s" .name .pool (join ", " $pools)) }}
{{- end }}
{{- if and .restoreFrom (not (has .restoreFrom $repositories)) }}
{{- fail (printf "storageClasses: %s restores from %s, but repositories has only %s" .name .restoreFrom $known) }}
{{- end }}
{{- $class := . }}
{{- with .protection }}
{{- if and .repositoryOf (not (has .repositoryOf $repositories)) }}
{{- fail (printf "storageClasses: %s is protected by %s, but repositories has only %s" $class.name .repositoryOf $known) }}
{{- end }}
{{- if not (or (and .repositoryOf (not .secret)) (and .secret (not .repositoryOf))) }}
{{- fail (printf "storageClasses: the protection of %s needs either repositoryOf, the name of a repository, or secret, NAMESPACE/NAME" $class.name) }}
{{- end }}
{{- if and .schedule (not (or .keepHourly .keepDaily .keepWeekly .keepMonthly)) }}
{{- fail (printf "storageClasses: the protection of %s must say how many exports are kept: keepHourly, keepDaily, keepWeekly or keepMonthly" $class.name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if gt (len $defaults) 1 }}{{ fail (printf "storageClasses: only one can be the default, not %s" (join " and " $defaults)) }}{{ end }}
{{- $names = list }}{{ $defaults = list }}{{ $velero := list }}
{{- range $class := .Values.volumeSnapshotClasses }}
{{- if has .name $names }}{{ fail (printf "volumeSnapshotClasses: %s is there twice" .name) }}{{ end }}
{{- $names = append $names .name }}
{{- if .default }}{{ $defaults = append $defaults .name }}{{ end }}
{{- if .velero }}{{ $velero = append $velero .name }}{{ end }}
{{- with .export }}
{{- if not (has .to $repositories) }}
{{- fail (printf "volumeSnapshotClasses: %s exports to %s, but repositories has only %s" $class.name .to $known) }}
{{- end }}
{{- if or $class.velero $class.default }}
{{- fail (printf "volumeSnapshotClasses: %s exports, so it can be neither Velero's nor the default: Velero takes a class with either mark, and all its own snapshots would be exported too" $class.name) }}
{{- end }}
{{- end }}
{{- if not (or .deletionPolicy .export) }}{{ fail (printf "volumeSnapshotClasses: %s needs a deletionPolicy, Delete or Retain" .name) }}{{ end }}
{{- end }}
{{- if gt (len $defaults) 1 }}{{ fail (printf "volumeSnapshotClasses: only one can be the driver's default, not %s" (join " and " $defaults)) }}{{ end }}
{{- if gt (len $velero) 1 }}{{ fail (printf "volumeSnapshotClasses: Velero would take any of %s; leave velero: true to one" (join " and " $velero)) }}{{ end }}
{{- end }}

{{- define "windlass.checkCluster" -}}
{{- if and .Values.checks.snapshotApi (not (.Capabilities.APIVersions.Has "snapshot.storage.k8s.io/v1/VolumeSnapshot")) }}
{{- fail "this cluster has no snapshot API (snapshot.storage.k8s.io/v1). Install the CRDs and the snapshot controller of kubernetes-csi/external-snapshotter first; they are the cluster's own, and this chart never brings them. `helm template` sees no cluster: add --api-versions snapshot.storage.k8s.io/v1/VolumeSnapshot" }}
{{- end }}
{{- if and (eq .Values.snapshotMetadata.enabled "always") (not (include "windlass.snapshotMetadataApi" .)) }}
{{- fail "snapshotMetadata.enabled is always, but this cluster has no SnapshotMetadataService API (cbt.storage.k8s.io). Install the CRD of kubernetes-csi/external-snapshot-metadata first, or set it to auto. `helm template` sees no cluster: add --api-versions cbt.storage.k8s.io/v1beta1/SnapshotMetadataService" }}
{{- end }}
{{- if include "windlass.connected" . }}
{{- if .Values.checks.snapshotController }}{{ include "windlass.checkSnapshotController" . }}{{ end }}
{{- if .Values.checks.oneNode }}{{ include "windlass.checkOneNode" . }}{{ end }}
{{- $namespace := lookup "v1" "Namespace" "" .Release.Namespace }}
{{- if $namespace }}
{{- $level := dig "metadata" "labels" "pod-security.kubernetes.io/enforce" "" $namespace }}
{{- if and $level (ne $level "privileged") }}
{{- fail (printf "namespace %s admits only %s pods; mounting volumes needs a privileged one: kubectl label --overwrite namespace %s pod-security.kubernetes.io/enforce=privileged" .Release.Namespace $level .Release.Namespace) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* A Deployment with that image, or the lease of one that runs elsewhere. */}}
{{- define "windlass.checkSnapshotController" -}}
{{- $found := false }}
{{- range (lookup "apps/v1" "Deployment" "" "").items }}
{{- range .spec.template.spec.containers }}{{ if contains "snapshot-controller" .image }}{{ $found = true }}{{ end }}{{ end }}
{{- end }}
{{- if not $found }}
{{- range (lookup "coordination.k8s.io/v1" "Lease" "" "").items }}{{ if eq .metadata.name "snapshot-controller-leader" }}{{ $found = true }}{{ end }}{{ end }}
{{- end }}
{{- if not $found }}
{{- fail "no snapshot controller is to be seen in this cluster (neither a Deployment nor its lease). Without one no VolumeSnapshot is ever ready. Install that of kubernetes-csi/external-snapshotter; if your provider runs it out of sight, set checks.snapshotController=false" }}
{{- end }}
{{- end }}

{{- define "windlass.checkOneNode" -}}
{{- $selector := .Values.nodeSelector }}
{{- $matching := list }}
{{- range (lookup "v1" "Node" "" "").items }}
{{- $labels := .metadata.labels }}
{{- $matches := true }}
{{- range $key, $value := $selector }}{{ if ne (get $labels $key) $value }}{{ $matches = false }}{{ end }}{{ end }}
{{- if $matches }}{{ $matching = append $matching .metadata.name }}{{ end }}
{{- end }}
{{- if not $matching }}{{ fail (printf "nodeSelector %s matches no node" (toJson $selector)) }}{{ end }}
{{- if gt (len $matching) 1 }}
{{- fail (printf "profile single-node serves the pools of one node, but nodeSelector %s matches %s; set nodeSelector.kubernetes\\.io/hostname" (toJson $selector) (join ", " $matching)) }}
{{- end }}
{{- end }}

{{/* The driver's name, which is part of the volumes it made: no value. */}}
{{- define "windlass.driver" -}}csi.windlass.dev{{- end }}

{{- define "windlass.labels" -}}
app.kubernetes.io/name: windlass
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What a DaemonSet selects by can never be changed: neither release nor version is in it. */}}
{{- define "windlass.selector" -}}
app.kubernetes.io/name: windlass
app.kubernetes.io/component: node
{{- end }}

{{- define "windlass.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* `true` where a cluster answers; `helm template` sees none. */}}
{{- define "windlass.connected" -}}
{{- if lookup "v1" "Namespace" "" "kube-system" }}true{{ end }}
{{- end }}

{{/* `true` for a choice of auto, always or never: (list CHOICE WHETHER-THE-API-IS-THERE). */}}
{{- define "windlass.chosen" -}}
{{- $choice := index . 0 -}}
{{- if or (eq $choice "always") (and (eq $choice "auto") (index . 1)) }}true{{ end }}
{{- end }}

{{- define "windlass.snapshotMetadata" -}}
{{- include "windlass.chosen" (list .Values.snapshotMetadata.enabled (not (empty (include "windlass.snapshotMetadataApi" .)))) }}
{{- end }}

{{/* The newest version of the SnapshotMetadataService API that the cluster has. */}}
{{- define "windlass.snapshotMetadataApi" -}}
{{- if .Capabilities.APIVersions.Has "cbt.storage.k8s.io/v1beta1/SnapshotMetadataService" }}cbt.storage.k8s.io/v1beta1
{{- else if .Capabilities.APIVersions.Has "cbt.storage.k8s.io/v1alpha1/SnapshotMetadataService" }}cbt.storage.k8s.io/v1alpha1
{{- end }}
{{- end }}

{{- define "windlass.openshift" -}}
{{- if .Capabilities.APIVersions.Has "security.openshift.io/v1/SecurityContextConstraints" }}true{{ end }}
{{- end }}

{{- define "windlass.tlsSecret" -}}
{{ .Values.snapshotMetadata.tls.existingSecret | default "windlass-snapshot-metadata" }}
{{- end }}

{{/* User and group of the agent, and those of the sidecars: nobody's in the images. */}}
{{- define "windlass.agentUser" -}}65532{{- end }}
{{- define "windlass.sidecarUser" -}}65533{{- end }}

{{/* What a container may do that nothing but talks: (dict root user). */}}
{{- define "windlass.unprivileged" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: {{ .user }}
runAsGroup: {{ .user }}
seccompProfile: {type: RuntimeDefault}
{{- if include "windlass.chosen" (list .root.Values.selinux.sidecarsAsSpc (include "windlass.openshift" .root | empty | not)) }}
seLinuxOptions: {type: spc_t}
{{- end }}
{{- end }}

{{/* A sidecar talks to the agent, whose socket is its group's. */}}
{{- define "windlass.sidecarSecurity" -}}
{{- include "windlass.unprivileged" (dict "root" . "user" (include "windlass.sidecarUser" .)) }}
{{- end }}

{{/* The Secret of a repository as JSON, {"name": ..., "namespace": ...}: (dict root name). */}}
{{- define "windlass.repositorySecret" -}}
{{- $root := .root }}{{ $name := .name }}
{{- range .root.Values.repositories }}{{ if eq .name $name }}{{ dict "name" .secret.name "namespace" (.secret.namespace | default $root.Release.Namespace) | toJson }}{{ end }}{{ end }}
{{- end }}

{{/* Directories of the host that hold pools and are not beneath the first: as JSON, {"list": [...]}. */}}
{{- define "windlass.poolDirectories" -}}
{{- $directories := list "/var/lib/windlass" }}
{{- range .Values.pools }}
{{- $directory := "" }}
{{- if .directory }}{{ $directory = clean .directory }}{{ else if .image }}{{ $directory = dir (clean .image) }}{{ end }}
{{- if and $directory (not (hasPrefix "/var/lib/windlass/" (printf "%s/" $directory))) }}
{{- $directories = append $directories $directory }}
{{- end }}
{{- end }}
{{- dict "list" ($directories | uniq) | toJson }}
{{- end }}

{{/* What `windlass node` and `windlass pool ensure` read. */}}
{{- define "windlass.poolsFile" -}}
{{- dict "pools" .Values.pools | toPrettyJson }}
{{- end }}

{{- define "windlass.nodeEnvironment" -}}
- {name: WINDLASS_LOG, value: {{ .Values.node.logLevel | quote }}}
- {name: WINDLASS_LOG_FORMAT, value: {{ .Values.node.logFormat | quote }}}
{{- end }}

{{- define "windlass.sidecarArguments" -}}
- --leader-election
- --leader-election-namespace={{ .Release.Namespace }}
- --v={{ .Values.sidecars.logLevel }}
{{- end }}

{{/* A sidecar answers from when the agent says that the node has a pool open, which may be when its disk is back: nothing is gained by ending it before. A day. */}}
{{- define "windlass.startupProbe" -}}
startupProbe:
  httpGet: {path: {{ .path }}, port: {{ .port }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 17280
{{- end }}

{{/* The rest of a sidecar that elects a leader: (dict root port resources). */}}
{{- define "windlass.sidecar" -}}
imagePullPolicy: {{ .root.Values.sidecars.pullPolicy }}
securityContext:
  {{- include "windlass.sidecarSecurity" .root | nindent 2 }}
{{ include "windlass.startupProbe" (dict "path" "/healthz/leader-election" "port" .port) }}
livenessProbe:
  httpGet: {path: /healthz/leader-election, port: {{ .port }}}
  periodSeconds: 30
  timeoutSeconds: 5
  failureThreshold: 4
resources:
  {{- toYaml .resources | nindent 2 }}
volumeMounts:
  - {name: agent-socket, mountPath: /csi, readOnly: true}
  - {name: api-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

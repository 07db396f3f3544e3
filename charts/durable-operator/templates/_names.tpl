{{- define "durable-operator.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "durable-operator.fullname" -}}
{{- $name := include "durable-operator.name" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "durable-operator.serviceAccountName" -}}
{{ default (include "durable-operator.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{/* What selects the operator's pods: never changes in the life of a release. */}}
{{- define "durable-operator.selector" -}}
app.kubernetes.io/name: {{ include "durable-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Labels of every object; `component` says what it belongs to. */}}
{{- define "durable-operator.labels" -}}
{{ include "durable-operator.selector" . }}
{{ include "durable-operator.release" . }}
{{- end }}

{{- define "durable-operator.release" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: durable-operator
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end }}

{{/* The name of an image: `image` (repository, tag, digest) and the version to take without a tag. */}}
{{- define "durable-operator.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .version .image.tag }}
{{- end -}}
{{- end }}

{{/* The same image's pull policy, where one is given. */}}
{{- define "durable-operator.imagePullPolicy" -}}
{{- with .pullPolicy }}imagePullPolicy: {{ . }}{{ end }}
{{- end }}

{{/*
Names of objects that belong to no namespace. Releases that watch some namespaces each may have the same name in several namespaces;
of releases that watch everything a cluster can only have one, so that its objects collide is wanted.
*/}}
{{- define "durable-operator.clusterName" -}}
{{- if .Values.watchNamespaces -}}
{{ printf "%s-%s" .Release.Namespace (include "durable-operator.fullname" .) }}
{{- else -}}
{{ include "durable-operator.fullname" . }}
{{- end -}}
{{- end }}

{{/* What no container of this chart may do. */}}
{{- define "durable-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* How the demo's pods and the test's run. */}}
{{- define "durable-operator.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

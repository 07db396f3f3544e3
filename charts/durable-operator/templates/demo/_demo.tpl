{{- define "durable-operator.emulatorHost" -}}
{{ include "durable-operator.fullname" . }}-emulator.{{ .Release.Namespace }}.svc
{{- end }}

{{/* `root` and `component`: what selects the pods of a part of the demo. */}}
{{- define "durable-operator.demoSelector" -}}
app.kubernetes.io/name: {{ include "durable-operator.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "durable-operator.demoLabels" -}}
{{ include "durable-operator.demoSelector" . }}
{{ include "durable-operator.release" .root }}
{{- end }}

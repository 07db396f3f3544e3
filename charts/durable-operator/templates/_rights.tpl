{{/* What the operator does with its own kinds and with Events: in a ClusterRole, or in a Role of each watched namespace. */}}
{{- define "durable-operator.rights" -}}
- apiGroups: [durable-operator.dev]
  resources: [taskhubs]
  # patch: the finalizer of `deletionPolicy: DeleteHub`
  verbs: [list, watch, patch]
- apiGroups: [durable-operator.dev]
  resources: [orchestrations, orchestrationevents]
  # patch: finalizers and owners; delete: `ttlSecondsAfterFinished`
  verbs: [list, watch, patch, delete]
- apiGroups: [durable-operator.dev]
  resources: [taskhubs/status, orchestrations/status, orchestrationevents/status]
  verbs: [update]
- apiGroups: [events.k8s.io]
  resources: [events]
  # patch: an Event that repeats is counted, not made again
  verbs: [create, patch]
# The labels of a namespace, for TaskHubs that select namespaces by them.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
{{- end }}

{{/* Who has them. */}}
{{- define "durable-operator.subject" -}}
- kind: ServiceAccount
  name: {{ include "durable-operator.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* The namespaces that are watched, none for all; the demo's TaskHub is in the release's. */}}
{{- define "durable-operator.watched" -}}
{{- $names := .Values.watchNamespaces -}}
{{- if and $names .Values.demo.enabled -}}
{{- $names = append $names .Release.Namespace | uniq -}}
{{- end -}}
{{ toJson (dict "names" $names) }}
{{- end }}

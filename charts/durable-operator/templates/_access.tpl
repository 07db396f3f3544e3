{{/* All entries of `access`, and the demo's; `suffix` is for the names of Role and RoleBinding. */}}
{{- define "durable-operator.access" -}}
{{- $all := list -}}
{{- range .Values.access -}}
{{- $all = append $all (merge (dict "suffix" "access") .) -}}
{{- end -}}
{{- if .Values.demo.enabled -}}
{{- $all = append $all (dict "suffix" "demo" "namespace" .Release.Namespace "secrets" (list (printf "%s-demo" (include "durable-operator.fullname" .)))) -}}
{{- end -}}
{{ toJson (dict "entries" $all) }}
{{- end }}

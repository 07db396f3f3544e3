{{/* Values that are fine each by itself and wrong together: said here, since the API server would say it later and less clearly, or nobody would. */}}
{{- define "durable-operator.check" -}}
{{- if and (not .Values.leaderElection.enabled) (gt (int .Values.replicas) 1) -}}
{{- fail (printf "replicas is %d and leaderElection.enabled is false: all replicas would work at once. Set replicas to 1, or leave leader election on" (int .Values.replicas)) -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false: serviceAccount.name has to say which one is to be used" -}}
{{- end -}}
{{- $seen := dict -}}
{{- range .Values.access -}}
{{- if hasKey $seen .namespace -}}
{{- fail (printf "access has two entries for the namespace %q: make one of them" .namespace) -}}
{{- end -}}
{{- $_ := set $seen .namespace true -}}
{{- if and $.Values.watchNamespaces (not (has .namespace $.Values.watchNamespaces)) -}}
{{- fail (printf "access names the namespace %q, which watchNamespaces does not list: a TaskHub in it would not be seen" .namespace) -}}
{{- end -}}
{{- end -}}
{{- end }}

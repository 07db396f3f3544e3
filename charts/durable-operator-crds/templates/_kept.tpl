{{/*
A definition as it is generated, and the mark by which helm leaves it alone at uninstall: with the definition all objects of the
kind would go, and with them what people and GitOps know of their runs. Edited as text: as values, large integers would become
floating-point numbers.
*/}}
{{- define "durable-operator-crds.kept" -}}
{{- $text := .root.Files.Get .file -}}
{{- if not (regexMatch "(?m)^metadata:$" $text) -}}
{{- fail (printf "%s is not in this chart, or no definition: a clone has it as a symbolic link to crds/, which the system or an archive may have lost" .file) -}}
{{- end -}}
{{ regexReplaceAll "(?m)^metadata:$" $text "metadata:\n  annotations:\n    helm.sh/resource-policy: keep" }}
{{- end }}

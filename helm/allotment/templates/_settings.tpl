{{/* Variables of a container, from a map. */}}
{{- define "allotment.variables" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ include "allotment.text" $value | quote }}
{{- end }}
{{- end }}

{{/* A value as a program reads it: no 1e+09. */}}
{{- define "allotment.text" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) }}{{ int64 . }}
{{- else }}{{ . }}
{{- end }}
{{- end }}

{{/* A service's own settings as a map of variables. Arguments: prefix, settings. */}}
{{- define "allotment.settings" -}}
{{- $prefix := .prefix -}}
{{- range $name, $value := .settings }}
{{ $prefix }}{{ snakecase $name | upper }}: {{ include "allotment.text" $value | quote }}
{{- end }}
{{- end }}

{{/* Where a service listens, and whom it calls, as a map of variables. Arguments: root, name, calls. */}}
{{- define "allotment.serve" -}}
{{- $listen := .root.Values.listenAddress -}}
{{- $host := contains ":" $listen | ternary (printf "[%s]" $listen) $listen -}}
{{- $release := .root.Release.Name -}}
ALLOTMENT_LOG_LEVEL: {{ .root.Values.logLevel }}
ALLOTMENT_SERVE_ADDRESS: {{ printf "%s:8443" $host | quote }}
ALLOTMENT_SERVE_HEALTH_ADDRESS: {{ printf "%s:8080" $host | quote }}
ALLOTMENT_SERVE_METRICS_HOST: {{ $listen | quote }}
ALLOTMENT_SERVE_METRICS_PORT: "9090"
ALLOTMENT_SERVE_CERTIFICATE_FILE: /etc/allotment/tls/tls.crt
ALLOTMENT_SERVE_PRIVATE_KEY_FILE: /etc/allotment/tls/tls.key
{{- if ne .name "gateway" }}
ALLOTMENT_SERVE_SERVICES_ADDRESS: {{ printf "%s:8444" $host | quote }}
ALLOTMENT_SERVE_CA_FILE: /etc/allotment/tls/ca.crt
{{- end }}
{{- range .calls }}
ALLOTMENT_SERVE_{{ upper . }}_ADDRESS: {{ $release }}-{{ . }}:8444
{{- end }}
{{- end }}

{{/* The database's URL, without the password, which libpq takes from PGPASSWORD. */}}
{{- define "allotment.databaseUrl" -}}
{{- if .Values.postgresql.enabled -}}
postgresql://allotment@{{ .Release.Name }}-postgresql:5432/allotment?sslmode=prefer
{{- else -}}
{{- $e := .Values.postgresql.external -}}
postgresql://{{ with $e.user }}{{ . | urlquery | replace "+" "%20" }}@{{ end }}{{ $e.host }}:{{ int $e.port }}/{{ $e.database | urlquery | replace "+" "%20" }}?sslmode={{ $e.sslmode }}
{{- if $e.ca.configMap }}&sslrootcert=/etc/allotment/database/{{ $e.ca.key }}{{ else if has $e.sslmode (list "verify-full" "verify-ca") }}&sslrootcert=/etc/ssl/certs/ca-certificates.crt{{ end }}
{{- end }}
{{- end }}

{{/* PGPASSWORD from its secret. */}}
{{- define "allotment.databasePassword" -}}
{{- $name := ternary (printf "%s-postgresql" .Release.Name) .Values.postgresql.external.secret.name .Values.postgresql.enabled -}}
{{- $key := ternary "password" .Values.postgresql.external.secret.key .Values.postgresql.enabled -}}
{{- if $name }}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $name }}
      key: {{ $key }}
{{- end }}
{{- end }}

{{/* The file of the database's authority, as a volume and its mount. */}}
{{- define "allotment.databaseCa" -}}
{{- if not .Values.postgresql.enabled }}{{ .Values.postgresql.external.ca.configMap }}{{ end }}
{{- end }}

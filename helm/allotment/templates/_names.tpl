{{/* Labels of every object. Arguments: root, component. */}}
{{- define "allotment.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: allotment
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{ include "allotment.selector" . }}
{{- end }}

{{/* What selects the pods of a component; never changes. */}}
{{- define "allotment.selector" -}}
app.kubernetes.io/part-of: allotment
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/*
Names of what belongs to no namespace. A namespace's name has no dot, so that those of two releases never meet.
Arguments: root, name.
*/}}
{{- define "allotment.clusterName" -}}
{{ .root.Release.Namespace }}.{{ .root.Release.Name }}-{{ .name }}
{{- end }}

{{/* Arguments: root, name. */}}
{{- define "allotment.image" -}}
{{- $image := .root.Values.image -}}
{{- with $image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ trimSuffix "/" $image.repository }}/{{ .name }}:{{ include "allotment.text" $image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* A bundled store's image, from the same registry. Arguments: root, image. */}}
{{- define "allotment.storeImage" -}}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .image }}
{{- end }}

{{- define "allotment.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Reasons to refuse what the schema can't see. */}}
{{- define "allotment.check" -}}
{{- $v := .Values -}}
{{- if gt (len .Release.Name) 40 }}
{{- fail (printf "the release's name %q is longer than 40 letters: names of pods and labels are made of it" .Release.Name) }}
{{- end }}
{{- if and (not $v.postgresql.enabled) (not $v.postgresql.external.host) }}
{{- fail "postgresql.enabled is false: name a server in postgresql.external.host" }}
{{- end }}
{{- if and $v.minio.enabled (or $v.s3.endpoint $v.s3.secret.name) }}
{{- fail "s3 names another server: set minio.enabled to false, or leave s3.endpoint and s3.secret.name empty" }}
{{- end }}
{{- if and (eq $v.route.kind "GRPCRoute") (not $v.route.grpcRoute.parentRefs) }}
{{- fail "route.kind is GRPCRoute: name a Gateway in route.grpcRoute.parentRefs" }}
{{- end }}
{{- if and (eq $v.route.kind "Ingress") (not $v.route.hostnames) }}
{{- fail "route.kind is Ingress: name a host in route.hostnames" }}
{{- end }}
{{- with $v.certificates.certManager }}
{{- if and (eq $v.certificates.mode "cert-manager") .issuerRef.name (not .caCertificate) }}
{{- fail "certificates.certManager.issuerRef names an issuer: give its authority in certificates.certManager.caCertificate, which clients and trainers trust" }}
{{- end }}
{{- end }}
{{- $namespaces := list }}
{{- range $id, $tenant := $v.tenants }}
{{- if and $v.kueue.enabled (not $v.kueue.queue) (not $tenant.queue) }}
{{- fail (printf "kueue.enabled is true: tenants.%s has no queue; give it one, or all of them kueue.queue" $id) }}
{{- end }}
{{- with $tenant.namespace }}
{{- if has . $namespaces }}
{{- fail (printf "namespace %s is named for two tenants; each needs one of its own" .) }}
{{- end }}
{{- $namespaces = append $namespaces . }}
{{- end }}
{{- end }}
{{- if and $v.kueue.enabled (not $v.kueue.queue) (not $v.tenants) }}
{{- fail "kueue.enabled is true: name the tenants' LocalQueue in kueue.queue, or one for each in tenants" }}
{{- end }}
{{- with $v.postgresql.external }}
{{- if and (not $v.postgresql.enabled) .ca.configMap (not (hasPrefix "verify-" .sslmode)) }}
{{- fail (printf "postgresql.external.ca names an authority, which sslmode %s does not look at: set it to verify-full, or ca.configMap to \"\"" .sslmode) }}
{{- end }}
{{- end }}
{{- with $v.trainer.cpu }}
{{- if and .coresLimit (lt (float64 .coresLimit) (float64 .cores)) }}
{{- fail "trainer.cpu.coresLimit is below trainer.cpu.cores: raise it, or set it to 0 for as much as is asked for" }}
{{- end }}
{{- end }}
{{- if ge (int $v.certificates.renewBeforeDays) (int $v.certificates.days) }}
{{- fail "certificates.renewBeforeDays has to be below certificates.days" }}
{{- end }}
{{- if lt (int $v.certificates.caDays) (mul 6 (int $v.certificates.days)) }}
{{- fail "certificates.caDays has to be at least six times certificates.days" }}
{{- end }}
{{- if and $v.hpa.enabled (not $v.gateway.enabled) }}
{{- fail "hpa.enabled is true, but the gateway, which it scales, is off: set one of them the other way" }}
{{- end }}
{{- if gt (int $v.hpa.minReplicas) (int $v.hpa.maxReplicas) }}
{{- fail "hpa.minReplicas is above hpa.maxReplicas" }}
{{- end }}
{{- end }}

{{/* "none", "own" (an authority of ours), "given" (another issuer's): who makes services' certificates with cert-manager. */}}
{{- define "allotment.certManager" -}}
{{- if ne .Values.certificates.mode "cert-manager" }}none
{{- else if .Values.certificates.certManager.issuerRef.name }}given
{{- else }}own
{{- end }}
{{- end }}

{{/* A quantity of bytes (512Mi, 2G, 1024) as a number. */}}
{{- define "allotment.bytes" -}}
{{- $text := toString . -}}
{{- $units := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 -}}
{{- $unit := regexFind "[A-Za-z]*$" $text -}}
{{- $number := trimSuffix $unit $text -}}
{{- mulf (float64 $number) (float64 (get $units $unit | default 1)) | int64 -}}
{{- end }}

{{/* Settings of the Job that makes and removes what the chart itself can't. Arguments: root. */}}
{{- define "allotment.installSettings" -}}
{{- $v := .Values -}}
{{- $namespaces := dict -}}
{{- range $id, $tenant := $v.tenants -}}
{{- with $tenant.namespace }}{{ $_ := set $namespaces $id . }}{{ end -}}
{{- end -}}
ALLOTMENT_LOG_LEVEL: {{ $v.logLevel }}
ALLOTMENT_INSTALL_RELEASE: {{ .Release.Name }}
ALLOTMENT_INSTALL_NAMESPACE: {{ .Release.Namespace }}
ALLOTMENT_INSTALL_CERTIFICATES: {{ get (dict "none" "own" "own" "cert-manager" "given" "none") (include "allotment.certManager" .) }}
ALLOTMENT_INSTALL_POSTGRESQL: {{ $v.postgresql.enabled | quote }}
ALLOTMENT_INSTALL_MINIO: {{ $v.minio.enabled | quote }}
ALLOTMENT_INSTALL_SERVER_NAMES: {{ concat $v.certificates.serverNames $v.route.hostnames | uniq | join "," | quote }}
ALLOTMENT_INSTALL_CLUSTER_DOMAIN: {{ $v.clusterDomain }}
ALLOTMENT_INSTALL_CERTIFICATE_DAYS: {{ int $v.certificates.days | quote }}
ALLOTMENT_INSTALL_RENEW_DAYS: {{ int $v.certificates.renewBeforeDays | quote }}
ALLOTMENT_INSTALL_CA_DAYS: {{ int $v.certificates.caDays | quote }}
ALLOTMENT_INSTALL_ADMIN_TOKEN_DAYS: {{ int $v.admin.tokenDays | quote }}
ALLOTMENT_INSTALL_DELETE_STORES: {{ $v.persistence.deleteOnUninstall | quote }}
ALLOTMENT_INSTALL_TENANT_NAMESPACES: {{ $namespaces | toJson | quote }}
ALLOTMENT_INSTALL_PULL_SECRET: {{ first $v.image.pullSecrets | default "" | quote }}
ALLOTMENT_INSTALL_SERVICES: dataset,controller,allocator,exporter{{ if $v.gateway.enabled }},gateway{{ end }}
ALLOTMENT_INSTALL_CA_CONFIG_MAP: {{ eq $v.route.kind "GRPCRoute" | quote }}
ALLOTMENT_INSTALL_DEDICATED_NODES: {{ $v.dedicatedNodes.enabled | quote }}
{{- end }}

{{/* The pod of such a Job. Arguments: root, name, verb, account. */}}
{{- define "allotment.installPod" -}}
metadata:
  labels:
    {{- include "allotment.labels" (dict "root" .root "component" .name) | nindent 4 }}
spec:
  restartPolicy: {{ .restart | default "Never" }}
  serviceAccountName: {{ .root.Release.Name }}-{{ .name }}
  automountServiceAccountToken: true
  enableServiceLinks: false
  terminationGracePeriodSeconds: 5
  {{- include "allotment.pullSecrets" .root | nindent 2 }}
  securityContext:
    {{- include "allotment.podSecurity" (dict "root" .root) | nindent 4 }}
  {{- include "allotment.placement" (dict "values" .root.Values.install) | nindent 2 }}
  containers:
    - name: {{ .name }}
      image: {{ include "allotment.image" (dict "root" .root "name" "allocator") }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      command: [python, -P, -m, allotment_allocator.install, {{ .verb }}]
      terminationMessagePolicy: FallbackToLogsOnError
      securityContext:
        {{- include "allotment.containerSecurity" .root | nindent 8 }}
      env:
        {{- include "allotment.variables" (include "allotment.installSettings" .root | fromYaml) | nindent 8 }}
      resources:
        {{- toYaml .root.Values.install.resources | nindent 8 }}
      volumeMounts:
        - {name: work, mountPath: /tmp}
  volumes:
    - name: work
      emptyDir: {sizeLimit: 64Mi}
{{- end }}

{{/* Names of the secrets that it makes, as a list. */}}
{{- define "allotment.madeSecrets" -}}
{{- $release := .Release.Name -}}
{{- range list "ca" "ca-key" "signing-key" "admin" "postgresql" "minio" "dataset-tls" "controller-tls" "allocator-tls" "exporter-tls" "gateway-tls" }}
- {{ $release }}-{{ . }}
{{- end }}
{{- end }}

{{/* Annotations of a hook. After an uninstall nothing of it stays, failed or not. Arguments: on, weight. */}}
{{- define "allotment.hook" -}}
helm.sh/hook: {{ .on }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded{{ if eq .on "post-delete" }},hook-failed{{ end }}
{{- end }}

{{/* Rights to make and renew secrets in the release's namespace. */}}
{{- define "allotment.secretRules" -}}
# A right to create can't be bound to names.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames:
    {{- include "allotment.madeSecrets" . | nindent 4 }}
  verbs: [get, patch]
# A kept volume without its password is refused, in words.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  resourceNames: [data-{{ .Release.Name }}-postgresql-0, data-{{ .Release.Name }}-minio-0]
  verbs: [get]
{{- if eq .Values.route.kind "GRPCRoute" }}
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [{{ .Release.Name }}-ca]
  verbs: [get, patch]
{{- end }}
{{- end }}

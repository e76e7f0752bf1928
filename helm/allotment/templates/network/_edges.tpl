{{/* A NetworkPolicy of one component. Arguments: root, component, ingress and egress (YAML of rules), hook. */}}
{{- define "allotment.policy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "allotment.labels" (dict "root" .root "component" .component) | nindent 4 }}
  {{- with .hook }}
  annotations:
    {{- include "allotment.hook" . | nindent 4 }}
  {{- end }}
spec:
  podSelector:
    matchLabels:
      {{- include "allotment.selector" (dict "root" .root "component" .component) | nindent 6 }}
  policyTypes: [Ingress, Egress]
  {{- with .ingress }}
  ingress:
    {{- . | trim | nindent 4 }}
  {{- end }}
  {{- with .egress }}
  egress:
    {{- . | trim | nindent 4 }}
  {{- end }}
{{- end }}

{{/* To components of this release. Arguments: root, to (names), port. */}}
{{- define "allotment.toServices" }}
- to:
    {{- $root := .root }}
    {{- range .to }}
    - podSelector:
        matchLabels:
          {{- include "allotment.selector" (dict "root" $root "component" .) | nindent 10 }}
    {{- end }}
  ports:
    - {protocol: TCP, port: {{ .port }}}
{{- end }}

{{/* From components of this release. Arguments: root, from (names), port. */}}
{{- define "allotment.fromServices" }}
- from:
    {{- $root := .root }}
    {{- range .from }}
    - podSelector:
        matchLabels:
          {{- include "allotment.selector" (dict "root" $root "component" .) | nindent 10 }}
    {{- end }}
  ports:
    - {protocol: TCP, port: {{ .port }}}
{{- end }}

{{/* From trainers, wherever tenants have their namespaces. */}}
{{- define "allotment.fromTrainers" }}
{{- $pods := include "allotment.selector" (dict "root" . "component" "trainer") }}
{{- $beforehand := list }}
{{- range $id, $each := .Values.tenants }}{{ with $each.namespace }}{{ $beforehand = append $beforehand . }}{{ end }}{{ end }}
- from:
    - namespaceSelector:
        matchLabels:
          allotment.dev/home: {{ .Release.Namespace }}
          app.kubernetes.io/instance: {{ .Release.Name }}
        matchExpressions:
          - {key: allotment.dev/tenant, operator: Exists}
      podSelector:
        matchLabels:
          {{- $pods | nindent 10 }}
    {{- if $beforehand }}
    - namespaceSelector:
        matchExpressions:
          - {key: allotment.dev/tenant, operator: Exists}
          - {key: kubernetes.io/metadata.name, operator: In, values: {{ $beforehand | toJson }}}
      podSelector:
        matchLabels:
          {{- $pods | nindent 10 }}
    {{- end }}
  ports:
    - {protocol: TCP, port: 8443}
{{- end }}

{{- define "allotment.fromMetrics" }}
{{- $peers := .Values.networkPolicy.metrics }}
{{- if or $peers .Values.serviceMonitor.enabled }}
- ports:
    - {protocol: TCP, port: 9090}
  {{- with $peers }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Who comes in where clients do: the gateway, or the controller of a route in its place. */}}
{{- define "allotment.fromClients" }}
{{- if .Values.gateway.enabled }}
{{- include "allotment.fromServices" (dict "root" . "from" (list "gateway") "port" 8443) }}
{{- else if ne .Values.route.kind "none" }}
- ports:
    - {protocol: TCP, port: 8443}
  {{- with .Values.networkPolicy.routeControllers }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "allotment.toDns" }}
{{- $dns := .Values.networkPolicy.dns }}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ $dns.namespace }}
    {{- range $dns.addresses }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
  ports:
    {{- range $dns.ports }}
    - {protocol: UDP, port: {{ int . }}}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
{{- end }}

{{- define "allotment.toDatabase" }}
{{- if .Values.postgresql.enabled }}
{{- include "allotment.toServices" (dict "root" . "to" (list "postgresql") "port" 5432) }}
{{- else }}
{{- include "allotment.toAddresses" (dict "cidrs" .Values.networkPolicy.databaseCidrs "ports" (list .Values.postgresql.external.port)) }}
{{- end }}
{{- end }}

{{- define "allotment.toObjectStore" }}
{{- if .Values.minio.enabled }}
{{- include "allotment.toServices" (dict "root" . "to" (list "minio") "port" 9000) }}
{{- else }}
{{- $port := regexFind ":[0-9]+$" .Values.s3.endpoint | trimPrefix ":" | default (hasPrefix "http://" .Values.s3.endpoint | ternary "80" "443") }}
{{- include "allotment.toAddresses" (dict "cidrs" .Values.networkPolicy.objectStoreCidrs "ports" (list $port)) }}
{{- if not .Values.s3.secret.name }}
{{- /* Who a service account is, is asked of the provider: its token service, or its metadata. */}}
{{- include "allotment.toAddresses" (dict "cidrs" list "ports" (list "443" "80")) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "allotment.toApiServer" }}
{{- include "allotment.toAddresses" .Values.networkPolicy.apiServer }}
{{- end }}

{{/* Beyond the cluster. Arguments: cidrs (empty: anywhere), ports (empty: any). */}}
{{- define "allotment.toAddresses" }}
{{- if or .cidrs .ports }}
- {{- if .ports }}
  ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
  {{- end }}
  {{- if .cidrs }}
  to:
    {{- range .cidrs }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
  {{- end }}
{{- else }}
- {}
{{- end }}
{{- end }}

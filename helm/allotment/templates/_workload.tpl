{{/* What every pod of the chart has. Arguments: root. */}}
{{- define "allotment.podSecurity" -}}
runAsNonRoot: true
{{- with .root.Values.podSecurityContext }}
{{- with .runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .runAsGroup }}
runAsGroup: {{ int64 . }}
{{- end }}
{{- with .fsGroup }}
fsGroup: {{ int64 . }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "allotment.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where pods go. Arguments: values (a service's), root, component. */}}
{{- define "allotment.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Arguments: root, name, values, replicas (more than one at times). */}}
{{- define "allotment.spread" -}}
{{- if kindIs "slice" .values.topologySpread }}
{{- with .values.topologySpread }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- else if gt (int .replicas) 1 }}
topologySpreadConstraints:
  {{- $of := . }}
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "allotment.selector" (dict "root" $of.root "component" $of.name) | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
A service's Deployment. Arguments: root, name, environment (a map of variables), secretEnvironment (a list of
them), volumes and mounts (lists), replicas (null: an autoscaler's), alone (two must never run at once), workSize.
*/}}
{{- define "allotment.deployment" -}}
{{- $root := .root -}}
{{- $values := index $root.Values .name -}}
{{- $label := dict "root" $root "component" .name -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $root.Release.Name }}-{{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "allotment.labels" $label | nindent 4 }}
  {{- with include "allotment.scoreNotes" $root }}
  annotations:
    {{- . | nindent 4 }}
  {{- end }}
spec:
  {{- if not (kindIs "invalid" .replicas) }}
  replicas: {{ int .replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  {{- if .alone }}
  strategy:
    type: Recreate
  {{- else }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  {{- end }}
  selector:
    matchLabels:
      {{- include "allotment.selector" $label | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "allotment.labels" $label | nindent 8 }}
      annotations:
        kubectl.kubernetes.io/default-container: {{ .name }}
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ $root.Release.Name }}-{{ .name }}
      automountServiceAccountToken: {{ eq .name "allocator" }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: 20
      {{- include "allotment.pullSecrets" $root | nindent 6 }}
      securityContext:
        {{- include "allotment.podSecurity" (dict "root" $root) | nindent 8 }}
      {{- include "allotment.placement" (dict "values" $values) | nindent 6 }}
      {{- include "allotment.spread" (dict "root" $root "name" .name "values" $values "replicas" (kindIs "invalid" .replicas | ternary 2 .replicas)) | nindent 6 }}
      containers:
        - name: {{ .name }}
          image: {{ include "allotment.image" (dict "root" $root "name" .name) }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          terminationMessagePolicy: FallbackToLogsOnError
          securityContext:
            {{- include "allotment.containerSecurity" $root | nindent 12 }}
          env:
            {{- include "allotment.variables" .environment | nindent 12 }}
            {{- with .secretEnvironment }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
            {{- with $values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            - {name: grpc, containerPort: 8443}
            {{- if ne .name "gateway" }}
            - {name: grpc-services, containerPort: 8444}
            {{- end }}
            - {name: health, containerPort: 8080}
            - {name: metrics, containerPort: 9090}
          startupProbe:
            grpc: {port: 8080}
            periodSeconds: 1
            timeoutSeconds: 3
            failureThreshold: 300
          # It serves, or stands by and would. The database may be away: a process that stands by is ready all the same.
          readinessProbe:
            grpc: {port: 8080, service: ready}
            periodSeconds: 2
            timeoutSeconds: 3
            failureThreshold: 2
          # This health knows nothing of the database or of other services: only a process that hangs is ended.
          livenessProbe:
            grpc: {port: 8080}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            - {name: work, mountPath: /tmp}
            - {name: tls, mountPath: /etc/allotment/tls, readOnly: true}
            {{- with .mounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: work
          emptyDir:
            sizeLimit: {{ index $values.resources.limits "ephemeral-storage" }}
        - name: tls
          secret:
            secretName: {{ $root.Release.Name }}-{{ .name }}-tls
            defaultMode: 0440
        {{- with .volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end }}

{{/* A service's Service, without an address of its own: callers spread over its pods. Arguments: root, name. */}}
{{- define "allotment.headless" -}}
{{- $label := dict "root" .root "component" .name -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .root.Release.Name }}-{{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "allotment.labels" $label | nindent 4 }}
spec:
  clusterIP: None
  # Callers ask each pod whether it serves; one that doesn't yet is found the sooner.
  publishNotReadyAddresses: true
  selector:
    {{- include "allotment.selector" $label | nindent 4 }}
  ports:
    - {name: grpc, port: 8443, targetPort: grpc}
    - {name: grpc-services, port: 8444, targetPort: grpc-services}
{{- end }}

{{/* For kube-score. */}}
{{- define "allotment.scoreNotes" -}}
{{- if ne .Values.image.pullPolicy "Always" -}}
# Tags of releases never move: what a node has is right, and nodes without a registry work.
kube-score/ignore: container-image-pull-policy
{{- end }}
{{- end }}

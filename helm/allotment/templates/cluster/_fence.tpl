{{/* Whether an object is a namespace of a tenant of this release, in CEL. Arguments: root, object. */}}
{{- define "allotment.isTenants" -}}
{{ .object }}.metadata.?labels['allotment.dev/tenant'].orValue('') != '' &&
{{ .object }}.metadata.?labels['allotment.dev/home'].orValue('') == '{{ .root.Release.Namespace }}' &&
{{ .object }}.metadata.?labels['app.kubernetes.io/instance'].orValue('') == '{{ .root.Release.Name }}'
{{- end }}

{{/* A policy for one of our accounts. Arguments: root, name, component, account, hook. The rest of its spec follows. */}}
{{- define "allotment.fence" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: {{ include "allotment.clusterName" (dict "root" .root "name" .name) }}
  labels:
    {{- include "allotment.labels" (dict "root" .root "component" .component) | nindent 4 }}
  {{- with .hook }}
  annotations:
    {{- include "allotment.hook" . | nindent 4 }}
  {{- end }}
spec:
  failurePolicy: Fail
  matchConditions:
    - name: ours
      expression: request.userInfo.username == 'system:serviceaccount:{{ .root.Release.Namespace }}:{{ .root.Release.Name }}-{{ .component }}'
{{- end }}

{{/* Arguments: as before. */}}
{{- define "allotment.fenceBinding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ include "allotment.clusterName" (dict "root" .root "name" .name) }}
  labels:
    {{- include "allotment.labels" (dict "root" .root "component" .component) | nindent 4 }}
  {{- with .hook }}
  annotations:
    {{- include "allotment.hook" . | nindent 4 }}
  {{- end }}
spec:
  policyName: {{ include "allotment.clusterName" (dict "root" .root "name" .name) }}
  validationActions: [Deny]
{{- end }}

{{/* What may change of nodes: our own labels and taints. */}}
{{- define "allotment.fenceNodes" }}
  matchConstraints:
    resourceRules:
      - apiGroups: [""]
        apiVersions: [v1]
        operations: [UPDATE]
        resources: [nodes]
        scope: Cluster
  variables:
    - name: labels
      expression: object.metadata.?labels.orValue({})
    - name: oldLabels
      expression: oldObject.metadata.?labels.orValue({})
  validations:
    - expression: >-
        variables.labels.all(k, k.startsWith('allotment.dev/') || (k in variables.oldLabels && variables.oldLabels[k] == variables.labels[k])) &&
        variables.oldLabels.all(k, k.startsWith('allotment.dev/') || k in variables.labels)
      message: labels allotment.dev/* of nodes alone may change
    - expression: >-
        object.spec.?taints.orValue([]).filter(t, !t.key.startsWith('allotment.dev/')) ==
        oldObject.spec.?taints.orValue([]).filter(t, !t.key.startsWith('allotment.dev/')) &&
        object.spec.?unschedulable.orValue(false) == oldObject.spec.?unschedulable.orValue(false)
      message: taints allotment.dev/* of nodes alone may change
{{- end }}

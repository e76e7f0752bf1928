{{/* The allocator's settings of the cluster, as a map of variables. */}}
{{- define "allotment.cluster" -}}
{{- $v := .Values -}}
{{- $release := .Release.Name -}}
{{- $home := .Release.Namespace -}}
{{- $pools := dict -}}
{{- range $name, $pool := $v.pools -}}
{{- $made := dict -}}
{{- range $field, $value := $pool -}}
{{- $_ := set $made (snakecase $field) $value -}}
{{- end -}}
{{- $_ := set $pools $name $made -}}
{{- end -}}
{{- $namespaces := dict -}}
{{- $queues := dict -}}
{{- range $id, $tenant := $v.tenants -}}
{{- with $tenant.namespace }}{{ $_ := set $namespaces $id . }}{{ end -}}
{{- with $tenant.queue }}{{ $_ := set $queues $id . }}{{ end -}}
{{- end -}}
ALLOTMENT_CLUSTER_RELEASE: {{ $release }}
ALLOTMENT_CLUSTER_NAMESPACE: {{ $home }}
ALLOTMENT_CLUSTER_ACCOUNT: {{ $release }}-allocator
ALLOTMENT_CLUSTER_TENANT_ROLE: {{ include "allotment.clusterName" (dict "root" . "name" "tenant") }}
ALLOTMENT_CLUSTER_TENANT_NAMESPACES: {{ $namespaces | toJson | quote }}
ALLOTMENT_CLUSTER_QPS: {{ include "allotment.text" $v.allocator.kubernetesApi.qps | quote }}
ALLOTMENT_CLUSTER_BURST: {{ include "allotment.text" $v.allocator.kubernetesApi.burst | quote }}
ALLOTMENT_CLUSTER_TRAINER_IMAGE: {{ include "allotment.image" (dict "root" . "name" "trainer") }}
ALLOTMENT_CLUSTER_TRAINER_PULL_POLICY: {{ $v.image.pullPolicy }}
{{- with $v.image.pullSecrets }}
ALLOTMENT_CLUSTER_TRAINER_PULL_SECRET: {{ first . }}
ALLOTMENT_CLUSTER_TRAINER_PULL_SECRET_FILE: /etc/allotment/pull/config.json
{{- end }}
ALLOTMENT_CLUSTER_TRAINER_GRACE_S: {{ include "allotment.text" $v.trainer.graceSeconds | quote }}
ALLOTMENT_CLUSTER_TRAINER_CACHE_BYTES: {{ include "allotment.bytes" $v.trainer.cacheSize | quote }}
ALLOTMENT_CLUSTER_TRAINER_PRIORITY_CLASS: {{ $v.trainer.priorityClassName | quote }}
ALLOTMENT_CLUSTER_TRAINER_RUNTIME_CLASS: {{ $v.trainer.runtimeClassName | quote }}
ALLOTMENT_CLUSTER_TRAINER_ENVIRONMENT: {{ $v.trainer.environment | toJson | quote }}
ALLOTMENT_CLUSTER_LARGEST_POD_MEMORY: {{ $v.trainer.largestPodMemory | quote }}
ALLOTMENT_CLUSTER_TENANT_QUOTA: {{ $v.tenantQuota | toJson | quote }}
ALLOTMENT_CLUSTER_CONTROLLER_ADDRESS: {{ $release }}-controller.{{ $home }}.svc:8443
ALLOTMENT_CLUSTER_DATASET_ADDRESS: {{ $release }}-dataset.{{ $home }}.svc:8443
ALLOTMENT_CLUSTER_DNS_NAMESPACE: {{ $v.networkPolicy.dns.namespace }}
ALLOTMENT_CLUSTER_DNS_PORTS: {{ $v.networkPolicy.dns.ports | join "," | quote }}
ALLOTMENT_CLUSTER_DNS_ADDRESSES: {{ $v.networkPolicy.dns.addresses | join "," | quote }}
ALLOTMENT_CLUSTER_CA_FILE: /etc/allotment/tls/ca.crt
ALLOTMENT_CLUSTER_GPU_RESOURCE: {{ $v.trainer.gpu.resource }}
ALLOTMENT_CLUSTER_MIG_PREFIX: {{ $v.trainer.gpu.migPrefix }}
ALLOTMENT_CLUSTER_TOLERATED_TAINTS: {{ $v.trainer.toleratedTaints | join "," | quote }}
ALLOTMENT_CLUSTER_GPU_THREADS: {{ include "allotment.text" $v.trainer.gpu.cores | quote }}
ALLOTMENT_CLUSTER_GPU_MEMORY_BYTES: {{ include "allotment.bytes" $v.trainer.gpu.memory | quote }}
ALLOTMENT_CLUSTER_POOLS: {{ $pools | toJson | quote }}
ALLOTMENT_CLUSTER_ABSENCE_S: {{ include "allotment.text" $v.controllerAbsenceSeconds | quote }}
ALLOTMENT_CLUSTER_LOST_AFTER_S: {{ include "allotment.text" $v.nodeLostAfterSeconds | quote }}
ALLOTMENT_CLUSTER_SLOT_CORES: {{ include "allotment.text" $v.trainer.cpu.cores | quote }}
ALLOTMENT_CLUSTER_SLOT_CORES_LIMIT: {{ include "allotment.text" $v.trainer.cpu.coresLimit | quote }}
ALLOTMENT_CLUSTER_SLOT_THREADS: {{ include "allotment.text" $v.trainer.cpu.threads | quote }}
ALLOTMENT_CLUSTER_SLOT_MEMORY_BYTES: {{ include "allotment.bytes" $v.trainer.cpu.memory | quote }}
ALLOTMENT_CLUSTER_DEDICATED_NODES: {{ $v.dedicatedNodes.enabled | quote }}
{{- if $v.kueue.enabled }}
ALLOTMENT_CLUSTER_QUEUE: {{ $v.kueue.queue | quote }}
ALLOTMENT_CLUSTER_QUEUES: {{ $queues | toJson | quote }}
ALLOTMENT_CLUSTER_QUEUE_PRIORITY_CLASS: {{ $v.kueue.priorityClass | quote }}
ALLOTMENT_CLUSTER_QUEUE_PENDING_LIMIT: {{ include "allotment.text" $v.kueue.pendingLimit | quote }}
{{- end }}
{{- end }}

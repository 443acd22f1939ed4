{{/* Names. Kubernetes allows 63 characters; the longest suffix has 26. */}}
{{- define "hilum.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 36 | trimSuffix "-" -}}
{{- end -}}

{{- define "hilum.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "hilum.name" .) .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "hilum.name" .) | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "hilum.serviceAccountName" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "hilum.fullname" . -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* Labels that never change: selectors are made of them. Arguments: root, component, pool. */}}
{{- define "hilum.selector" -}}
app.kubernetes.io/name: {{ include "hilum.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
hilum.dev/pool: {{ . }}
{{- end }}
{{- end -}}

{{- define "hilum.labels" -}}
{{ include "hilum.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Arguments: root, image. */}}
{{- define "hilum.image" -}}
{{- $name := .image.repository -}}
{{- with .root.Values.imageRegistry -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .) $name -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* A pool with the defaults. Arguments: root, pool. Read it with fromYaml. */}}
{{- define "hilum.pool" -}}
{{- mergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy (default dict .pool)) | toYaml -}}
{{- end -}}

{{/* A number of pods, which may be 0, or the default where none is given. Arguments: given, default. */}}
{{- define "hilum.replicas" -}}
{{- if kindIs "invalid" .given -}}{{ .default }}{{- else -}}{{ int .given }}{{- end -}}
{{- end -}}

{{/* The settings of a pool: its own over those of all. Arguments: root, pool. */}}
{{- define "hilum.poolSettings" -}}
{{- mergeOverwrite (deepCopy .root.Values.settings) (deepCopy .pool.settings) | toYaml -}}
{{- end -}}

{{- define "hilum.poolEngine" -}}
{{- $settings := include "hilum.poolSettings" . | fromYaml -}}
{{- .pool.engine | default $settings.engine | default "auto" -}}
{{- end -}}

{{/* The model label of a pool's jobs, as hilum.queue.route spells it. */}}
{{- define "hilum.poolModels" -}}
{{- $digest := .pool.model.digest | default .root.Values.model.digest -}}
{{- if and .pool.model.uri (not .pool.model.digest) -}}{{- $digest = "" -}}{{- end -}}
any{{- with $digest }}|{{ trimPrefix "sha256:" . | trunc 16 }}{{- end -}}
{{- end -}}

{{/* Helm reads numbers as floats, and would print 268435456 as 2.68435456e+08. */}}
{{- define "hilum.scalar" -}}
{{- if or (kindIs "map" .) (kindIs "slice" .) -}}
{{- toJson . -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* Settings as variables, a map for fromYaml. Argument: the values. */}}
{{- define "hilum.settingsMap" -}}
{{- range $section, $value := . }}
{{- if kindIs "map" $value }}
{{- range $name, $inner := $value }}
{{- if not (kindIs "invalid" $inner) }}
HILUM_{{ upper $section }}__{{ upper $name }}: {{ include "hilum.scalar" $inner | quote }}
{{- end }}
{{- end }}
{{- else if not (kindIs "invalid" $value) }}
HILUM_{{ upper $section }}: {{ include "hilum.scalar" $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Settings as a list of `env`. */}}
{{- define "hilum.settingsEnv" -}}
{{- range $name, $value := include "hilum.settingsMap" . | fromYaml }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{- define "hilum.secretEnv" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end -}}

{{- define "hilum.databaseSecret" -}}
{{- if .Values.dev.enabled -}}{{ include "hilum.fullname" . }}-dev{{- else -}}{{ .Values.database.existingSecret }}{{- end -}}
{{- end -}}

{{/* What a process that uses only SQL needs. */}}
{{- define "hilum.env.database" -}}
{{- $dev := .Values.dev.enabled -}}
{{ include "hilum.secretEnv" (dict "name" "HILUM_DATABASE_URL" "secret" (include "hilum.databaseSecret" .) "key" (ternary "database-url" .Values.database.key $dev)) }}
{{- if .Values.tls.caConfigMap }}
- name: PGSSLROOTCERT
  value: /etc/hilum/ca/{{ .Values.tls.caKey }}
{{- end }}
{{- end -}}

{{/* What gateway and workers need. */}}
{{- define "hilum.env.services" -}}
{{- $dev := .Values.dev.enabled -}}
{{- $devSecret := printf "%s-dev" (include "hilum.fullname" .) -}}
{{ include "hilum.env.database" . }}
{{ include "hilum.secretEnv" (dict "name" "HILUM_BROKER_URL" "secret" (ternary $devSecret .Values.broker.existingSecret $dev) "key" (ternary "broker-url" .Values.broker.key $dev)) }}
{{- if or $dev .Values.s3.existingSecret }}
{{ include "hilum.secretEnv" (dict "name" "HILUM_S3__ACCESS_KEY_ID" "secret" (ternary $devSecret .Values.s3.existingSecret $dev) "key" (ternary "access-key-id" .Values.s3.accessKeyIdKey $dev)) }}
{{ include "hilum.secretEnv" (dict "name" "HILUM_S3__SECRET_ACCESS_KEY" "secret" (ternary $devSecret .Values.s3.existingSecret $dev) "key" (ternary "secret-access-key" .Values.s3.secretAccessKeyKey $dev)) }}
{{- end }}
{{- range $name := list "deidentify" "identity" }}
{{- $secret := get $.Values.secrets $name }}
{{- if $secret.existingSecret }}
{{ include "hilum.secretEnv" (dict "name" (printf "HILUM_%s__SECRET" (upper $name)) "secret" $secret.existingSecret "key" $secret.key) }}
{{- end }}
{{- end }}
{{- if .Values.tls.caConfigMap }}
- name: AWS_CA_BUNDLE
  value: /etc/hilum/ca/{{ .Values.tls.caKey }}
{{- end }}
{{- end -}}

{{/* The secret of the prepared-image cache, which the gateway does not use. */}}
{{- define "hilum.env.prepared" -}}
{{- with .Values.secrets.prepared }}
{{- if .existingSecret }}
{{ include "hilum.secretEnv" (dict "name" "HILUM_PREPARED__SECRET" "secret" .existingSecret "key" .key) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The model of a pool. Arguments: root, pool. */}}
{{- define "hilum.env.model" -}}
- name: HILUM_MODEL_URI
  value: {{ .pool.model.uri | default .root.Values.model.uri | quote }}
{{- $digest := .pool.model.digest -}}
{{- if not .pool.model.uri }}{{- $digest = $digest | default .root.Values.model.digest }}{{- end }}
{{- with $digest }}
- name: HILUM_MODEL_DIGEST
  value: {{ . | quote }}
{{- end }}
{{- if .root.Values.model.trustedSigners.existingConfigMap }}
- name: HILUM_TRUSTED_SIGNERS
  value: /etc/hilum/signers/{{ .root.Values.model.trustedSigners.key }}
{{- end }}
{{- end -}}

{{/* Everything about a worker that its settings, model and pool say. Arguments: root, pool. */}}
{{- define "hilum.env.worker" -}}
{{ include "hilum.env.services" .root }}
{{- include "hilum.env.prepared" .root }}
{{ include "hilum.env.model" . }}
{{- $settings := deepCopy .pool.settings }}
{{- if .pool.engine }}{{- $_ := set $settings "engine" .pool.engine }}{{- end }}
{{- /* A pool without a GPU looks for none, and its metrics do not say that one is missing. */}}
{{- $gpu := or (gt (int .pool.gpu.count) 0) .pool.gpu.deviceClassName }}
{{- if and (not $gpu) (eq (include "hilum.poolEngine" .) "auto") }}{{- $_ := set $settings "engine" "onnxruntime" }}{{- end }}
{{- include "hilum.settingsEnv" $settings }}
{{- if .root.Values.plans.enabled }}
- name: HILUM_TENSORRT__ENGINE_DIR
  value: /plans
{{- end }}
{{- end -}}

{{/* Pod Security Standard "restricted". */}}
{{- define "hilum.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "hilum.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "hilum.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "hilum.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 2Gi
{{- if .Values.tls.caConfigMap }}
- name: ca
  configMap:
    name: {{ .Values.tls.caConfigMap }}
{{- end }}
{{- end -}}

{{- define "hilum.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .Values.tls.caConfigMap }}
- name: ca
  mountPath: /etc/hilum/ca
  readOnly: true
{{- end }}
{{- end -}}

{{/* Arguments: root, pool. */}}
{{- define "hilum.workerVolumes" -}}
{{ include "hilum.volumes" .root }}
- name: cache
  emptyDir:
    sizeLimit: {{ .pool.cacheSizeLimit }}
{{- if .root.Values.model.trustedSigners.existingConfigMap }}
- name: signers
  configMap:
    name: {{ .root.Values.model.trustedSigners.existingConfigMap }}
{{- end }}
{{- if .root.Values.plans.enabled }}
- name: plans
  persistentVolumeClaim:
    claimName: {{ include "hilum.plansClaim" .root }}
    readOnly: true
{{- end }}
{{- end -}}

{{- define "hilum.workerMounts" -}}
{{ include "hilum.mounts" .root }}
- name: cache
  mountPath: /var/cache/hilum
{{- if .root.Values.model.trustedSigners.existingConfigMap }}
- name: signers
  mountPath: /etc/hilum/signers
  readOnly: true
{{- end }}
{{- if .root.Values.plans.enabled }}
- name: plans
  mountPath: /plans
  readOnly: true
{{- end }}
{{- end -}}

{{- define "hilum.plansClaim" -}}
{{- .Values.plans.existingClaim | default (printf "%s-plans" (include "hilum.fullname" .)) -}}
{{- end -}}

{{/* An init container that waits for a schema that this version may use. */}}
{{- define "hilum.waitForSchema" -}}
- name: wait-for-schema
  image: {{ include "hilum.image" (dict "root" .root "image" .image) }}
  imagePullPolicy: {{ .root.Values.imagePullPolicy }}
  args: [db, wait, --timeout-s, {{ .root.Values.migration.waitSeconds | int | quote }}]
  env:
    {{- include "hilum.env.database" .root | nindent 4 }}
  resources:
    requests: {cpu: 50m, memory: 128Mi}
    limits: {memory: 256Mi}
  securityContext:
    {{- include "hilum.containerSecurity" .root | nindent 4 }}
  volumeMounts:
    {{- include "hilum.mounts" .root | nindent 4 }}
{{- end -}}

{{- define "hilum.podAnnotations" -}}
hilum.dev/log-retention-days: {{ .root.Values.logs.retentionDays | int | quote }}
checksum/settings: {{ include "hilum.config" .root | sha256sum }}
{{- with .annotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The settings of all processes. */}}
{{- define "hilum.config" -}}
HILUM_CACHE_DIR: /var/cache/hilum
{{- if .Values.dev.enabled }}
HILUM_S3__ENDPOINT_URL: http://{{ include "hilum.fullname" . }}-dev-s3:8333
{{- end }}
{{- include "hilum.settingsMap" .Values.settings }}
{{- end -}}

{{- define "hilum.envFrom" -}}
- configMapRef:
    name: {{ include "hilum.fullname" . }}-settings
{{- end -}}

{{/* Spread over zones and hosts, where possible. Argument: the selector's labels. */}}
{{- define "hilum.spread" -}}
topologySpreadConstraints:
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $ | nindent 8 }}
{{- end }}
{{- end -}}

{{/* The chart's PriorityClass. Its value cannot be changed, so it is part of the name. Arguments: root, queue. */}}
{{- define "hilum.priorityClass" -}}
{{- $value := get .root.Values.priorityClasses .queue | int -}}
hilum-{{ .root.Release.Namespace }}-{{ include "hilum.fullname" .root }}-{{ .queue }}-{{ $value }}
{{- end -}}

{{/* Arguments: root, own (a name or empty), queues (or a list with one). */}}
{{- define "hilum.priority" -}}
{{- if .own -}}
priorityClassName: {{ .own }}
{{- else if .root.Values.priorityClasses.create -}}
{{- $queues := .queues -}}
{{- $urgent := ternary "stat" (ternary "routine" "bulk" (has "routine" $queues)) (has "stat" $queues) -}}
priorityClassName: {{ include "hilum.priorityClass" (dict "root" .root "queue" $urgent) }}
{{- end -}}
{{- end -}}

{{/* GPU of a container: one whole number of one resource. Argument: gpu. */}}
{{- define "hilum.gpuResources" -}}
{{- if .gpu.deviceClassName -}}
{{- toYaml (merge (dict "claims" (list (dict "name" "gpu"))) .resources) -}}
{{- else if gt (int .gpu.count) 0 -}}
{{- $gpu := dict .gpu.resourceName (int .gpu.count) -}}
{{- $all := deepCopy .resources -}}
{{- $_ := set $all "limits" (merge (default dict $all.limits) $gpu) -}}
{{- $_ := set $all "requests" (merge (default dict $all.requests) $gpu) -}}
{{- toYaml $all -}}
{{- else -}}
{{- toYaml .resources -}}
{{- end -}}
{{- end -}}

{{/* A DRA claim of one device; the template cannot be changed, so its content is part of the name. */}}
{{- define "hilum.claimTemplate" -}}
{{- include "hilum.fullname" .root }}-gpu-{{ sha256sum .deviceClassName | trunc 8 -}}
{{- end -}}

{{/* Image of a pool. Arguments: root, pool. */}}
{{- define "hilum.poolImage" -}}
{{- $gpu := or (gt (int .pool.gpu.count) 0) .pool.gpu.deviceClassName -}}
{{- include "hilum.image" (dict "root" .root "image" (ternary .root.Values.images.workerGpu .root.Values.images.worker (not (empty $gpu)))) -}}
{{- end -}}

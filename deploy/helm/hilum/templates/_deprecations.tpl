{{/*
Values that were renamed or removed, and values that other charts have and this one does not. They
are in the schema only so that whoever still sets one reads here what to do. A renamed value stays
in this list for two minor versions of the chart.
*/}}
{{- define "hilum.deprecations" -}}
{{- $gone := dict
  "replicaCount" "use gateway.replicas, and workers.POOL.replicas for each pool"
  "image" "use images.gateway, images.worker and images.workerGpu"
  "postgresql" "the chart brings no database: name your own in database.existingSecret, or set dev.enabled for a trial"
  "redis" "the chart brings no broker: name your own in broker.existingSecret, or set dev.enabled for a trial"
  "minio" "the chart brings no object store: set settings.s3.endpoint_url and s3.existingSecret, or dev.enabled for a trial"
-}}
{{- range $name, $instead := $gone -}}
{{- if hasKey $.Values $name -}}
{{- fail (printf "\n\nThe value %s is not one of this chart: %s.\n" $name $instead) -}}
{{- end -}}
{{- end -}}
{{- end -}}

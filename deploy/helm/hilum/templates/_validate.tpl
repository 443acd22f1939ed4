{{/* What the schema cannot say: values that contradict each other or the cluster. Every message names the value and the fix. */}}
{{- define "hilum.fail" -}}
{{- fail (printf "\n\n%s\n" .) -}}
{{- end -}}

{{/* An IANA zone. Go renders an unknown zone as UTC, and the API server refuses the CronJob. Arguments: value, zone. */}}
{{- define "hilum.checkZone" -}}
{{- $utc := list "UTC" "Etc/UTC" "Etc/UCT" "UCT" "Etc/Universal" "Universal" "Etc/Zulu" "Zulu" -}}
{{- $known := ne (dateInZone "MST" (toDate "2006-01-02" "2026-01-15") "America/New_York") "UTC" -}}
{{- if and $known (not (has .zone $utc)) (eq (dateInZone "MST" (toDate "2006-01-02" "2026-01-15") .zone) "UTC") -}}
{{- include "hilum.fail" (printf "%s: %q is not a time zone. Use an IANA name such as Europe/Berlin." .value .zone) -}}
{{- end -}}
{{- if or (eq .zone "Local") (eq .zone "") -}}
{{- include "hilum.fail" (printf "%s: %q is not a time zone. Use an IANA name such as Europe/Berlin." .value .zone) -}}
{{- end -}}
{{- end -}}

{{/* A quantity as a number. */}}
{{- define "hilum.quantity" -}}
{{- $factors := dict "m" 0.001 "k" 1000.0 "M" 1000000.0 "G" 1000000000.0 "T" 1000000000000.0 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- mulf (float64 $number) (get $factors (trimPrefix $number .) | default 1.0) -}}
{{- end -}}

{{/* A request above its limit is refused by the API server. Arguments: value, resources. */}}
{{- define "hilum.checkResources" -}}
{{- range $name, $limit := default dict .resources.limits -}}
{{- $request := get (default dict $.resources.requests) $name -}}
{{- if and $request (gt (include "hilum.quantity" $request | float64) (include "hilum.quantity" $limit | float64)) -}}
{{- include "hilum.fail" (printf "%s.requests.%s: %s is above the limit of %s." $.value $name $request $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "hilum.validate" -}}
{{- $v := .Values -}}
{{- if gt (len (include "hilum.fullname" .)) 36 -}}
{{- include "hilum.fail" "fullnameOverride: at most 36 characters, because names of pools are added to it." -}}
{{- end -}}
{{- if $v.dev.enabled -}}
{{- if not $v.dev.password -}}{{- include "hilum.fail" "dev.password: set it; dev.enabled needs one." -}}{{- end -}}
{{- range $name := list "database" "broker" "s3" -}}
{{- if (get $v $name).existingSecret -}}
{{- include "hilum.fail" (printf "%s.existingSecret and dev.enabled contradict each other: leave one of them out." $name) -}}
{{- end -}}
{{- end -}}
{{- if (default dict $v.settings.s3).endpoint_url -}}
{{- include "hilum.fail" "settings.s3.endpoint_url and dev.enabled contradict each other: leave one of them out." -}}
{{- end -}}
{{- else -}}
{{- if not $v.database.existingSecret -}}
{{- include "hilum.fail" "database.existingSecret: name the Secret whose key `url` has the address of PostgreSQL. Make it with: kubectl create secret generic hilum-database --from-literal=url=postgresql://USER:PASSWORD@HOST/NAME" -}}
{{- end -}}
{{- if not $v.broker.existingSecret -}}
{{- include "hilum.fail" "broker.existingSecret: name the Secret whose key `url` has the address of Redis or Valkey. Make it with: kubectl create secret generic hilum-broker --from-literal=url=rediss://:PASSWORD@HOST:6379/0" -}}
{{- end -}}
{{- end -}}
{{- range $name := list "gateway" "migration" "campaign" "plans" -}}
{{- include "hilum.checkResources" (dict "value" (printf "%s.resources" $name) "resources" (get $v $name).resources) -}}
{{- end -}}
{{- $settings := $v.settings -}}
{{- range $name, $needs := dict "identity" (default dict $settings.identity).store "deidentify" (default dict $settings.deidentify).results "prepared" (ne (default "off" (default dict $settings.prepared).mode) "off") -}}
{{- if and $needs (not (get $v.secrets $name).existingSecret) -}}
{{- include "hilum.fail" (printf "secrets.%s.existingSecret: settings.%s needs a secret. Make it with: kubectl create secret generic hilum-%s --from-literal=secret=\"$(hilum cache secret)\"" $name $name $name) -}}
{{- end -}}
{{- end -}}
{{- if and $v.gateway.autoscaling.enabled (not (kindIs "invalid" $v.gateway.replicas)) -}}
{{- include "hilum.fail" "gateway.replicas and gateway.autoscaling.enabled contradict each other: leave gateway.replicas out." -}}
{{- end -}}
{{- if and $v.gateway.autoscaling.enabled (gt (int $v.gateway.autoscaling.minReplicas) (int $v.gateway.autoscaling.maxReplicas)) -}}
{{- include "hilum.fail" "gateway.autoscaling.minReplicas is above gateway.autoscaling.maxReplicas." -}}
{{- end -}}
{{- if and $v.gateway.ingress.enabled $v.gateway.httpRoute.enabled -}}
{{- include "hilum.fail" "gateway.ingress.enabled and gateway.httpRoute.enabled: enable one of them." -}}
{{- end -}}
{{- if $v.gateway.ingress.enabled -}}
{{- if not $v.gateway.ingress.host -}}{{- include "hilum.fail" "gateway.ingress.host: set the host name." -}}{{- end -}}
{{- if not $v.gateway.ingress.tlsSecret -}}{{- include "hilum.fail" "gateway.ingress.tlsSecret: name the Secret with the certificate; hilum is not served without TLS." -}}{{- end -}}
{{- end -}}
{{- if and $v.gateway.httpRoute.enabled (not $v.gateway.httpRoute.parentName) -}}
{{- include "hilum.fail" "gateway.httpRoute.parentName: name the Gateway." -}}
{{- end -}}
{{- if le (int $v.gateway.terminationGracePeriodSeconds) 30 -}}
{{- include "hilum.fail" "gateway.terminationGracePeriodSeconds: more than 30, which the server waits for open requests." -}}
{{- end -}}
{{- if and $v.serviceAccount.annotations (not $v.serviceAccount.create) -}}
{{- include "hilum.fail" "serviceAccount.annotations needs serviceAccount.create." -}}
{{- end -}}
{{- $zones := $v.campaign.enabled -}}
{{- if $zones -}}{{- include "hilum.checkZone" (dict "value" "campaign.timeZone" "zone" $v.campaign.timeZone) -}}{{- end -}}
{{- if and $v.plans.enabled (not $v.plans.gpus) -}}
{{- include "hilum.fail" "plans.gpus: name each GPU model, such as {name: l4, nodeSelector: {nvidia.com/gpu.product: NVIDIA-L4}}." -}}
{{- end -}}
{{- $served := dict -}}
{{- $kept := false -}}
{{- $pools := 0 -}}
{{- range $name, $own := $v.workers -}}
{{- $pool := include "hilum.pool" (dict "root" $ "pool" $own) | fromYaml -}}
{{- if $pool.enabled -}}
{{- $pools = add1 $pools -}}
{{- $at := printf "workers.%s" $name -}}
{{- if not (or $pool.model.uri $v.model.uri) -}}
{{- include "hilum.fail" (printf "model.uri: name the model package, s3://…, or %s.model.uri." $at) -}}
{{- end -}}
{{- if not $pool.queues -}}{{- include "hilum.fail" (printf "%s.queues: name at least one of stat, routine, bulk." $at) -}}{{- end -}}
{{- range $pool.queues -}}{{- $_ := set $served . true -}}{{- end -}}
{{- include "hilum.checkResources" (dict "value" (printf "%s.resources" $at) "resources" $pool.resources) -}}
{{- $scaled := $pool.autoscaling -}}
{{- if $scaled.enabled -}}
{{- if not (kindIs "invalid" $pool.replicas) -}}
{{- include "hilum.fail" (printf "%s.replicas and %s.autoscaling.enabled contradict each other: leave the replicas out." $at $at) -}}
{{- end -}}
{{- if not $v.keda.prometheus.serverAddress -}}
{{- include "hilum.fail" (printf "keda.prometheus.serverAddress: %s.autoscaling.enabled needs the address of Prometheus." $at) -}}
{{- end -}}
{{- if or (gt (int $scaled.minReplicas) (int $scaled.maxReplicas)) (lt (int $scaled.maxReplicas) 1) -}}
{{- include "hilum.fail" (printf "%s.autoscaling.maxReplicas: at least 1, and not below minReplicas." $at) -}}
{{- end -}}
{{- range $scaled.windows -}}
{{- include "hilum.checkZone" (dict "value" (printf "%s.autoscaling.windows.timezone" $at) "zone" .timezone) -}}
{{- if eq .start .end -}}
{{- include "hilum.fail" (printf "%s.autoscaling.windows: start and end are the same." $at) -}}
{{- end -}}
{{- end -}}
{{- if gt (int $scaled.minReplicas) 0 -}}{{- $kept = true -}}{{- end -}}
{{- else -}}
{{- if gt (include "hilum.replicas" (dict "given" $pool.replicas "default" 1) | int) 0 -}}{{- $kept = true -}}{{- end -}}
{{- end -}}
{{- $gpu := $pool.gpu -}}
{{- if and $gpu.deviceClassName (gt (int $gpu.count) 0) -}}
{{- include "hilum.fail" (printf "%s.gpu.count and %s.gpu.deviceClassName contradict each other: a claim names the device by its class; set the count to 0." $at $at) -}}
{{- end -}}
{{- if and $gpu.deviceClassName (semverCompare "<1.34.0-0" $.Capabilities.KubeVersion.Version) -}}
{{- include "hilum.fail" (printf "%s.gpu.deviceClassName: claims (DRA) need Kubernetes 1.34 or newer. Use %s.gpu.count." $at $at) -}}
{{- end -}}
{{- if and (hasSuffix ".shared" $gpu.resourceName) (gt (int $gpu.count) 1) -}}
{{- include "hilum.fail" (printf "%s.gpu.count: 1 for a time-sliced GPU. More slices give no more of it, and many device plugins refuse them." $at) -}}
{{- end -}}
{{- $engine := include "hilum.poolEngine" (dict "root" $ "pool" $pool) -}}
{{- if and (has $engine (list "tensorrt" "onnxruntime-cuda")) (not (or $gpu.deviceClassName (gt (int $gpu.count) 0))) -}}
{{- include "hilum.fail" (printf "%s.engine is %s, which needs a GPU: set %s.gpu.count to 1, or another engine." $at $engine $at) -}}
{{- end -}}
{{- $mine := include "hilum.poolSettings" (dict "root" $ "pool" $pool) | fromYaml -}}
{{- $s3 := default dict $mine.s3 -}}
{{- $limits := default dict $mine.limits -}}
{{- $worker := default dict $mine.worker -}}
{{- $fetch := mulf (default 3 $s3.max_attempts) (addf (default 5 $s3.connect_timeout_s) (default 30 $s3.read_timeout_s)) -}}
{{- $batch := addf $fetch (default 10 $limits.max_decode_s) 10 | ceil | int -}}
{{- if le (int $pool.terminationGracePeriodSeconds) $batch -}}
{{- include "hilum.fail" (printf "%s.terminationGracePeriodSeconds: %d, but fetching and decoding the batch in hand may take %d seconds (settings.s3 and settings.limits.max_decode_s). Set it higher." $at (int $pool.terminationGracePeriodSeconds) $batch) -}}
{{- end -}}
{{- if ge (int (default 900 $worker.task_time_limit_s)) (int (default 1800 $worker.visibility_timeout_s)) -}}
{{- include "hilum.fail" (printf "%s: settings.worker.task_time_limit_s must be below settings.worker.visibility_timeout_s." $at) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not $kept -}}
{{- include "hilum.fail" "workers: at least one pool must keep a pod (replicas or autoscaling.minReplicas of 1 or more). It runs the sweeper, which publishes jobs again; with every pool at zero none would ever start." -}}
{{- end -}}
{{- range list "stat" "routine" "bulk" -}}
{{- if not (hasKey $served .) -}}
{{- include "hilum.fail" (printf "workers: no pool serves the queue %s; its jobs would wait for ever. Add it to the queues of a pool." .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

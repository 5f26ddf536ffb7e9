{{/* Labels of every object. */}}
{{- define "oci-secrets.labels" -}}
{{ include "oci-secrets.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "oci-secrets.selector" -}}
app.kubernetes.io/name: oci-secrets
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "oci-secrets.image" -}}
{{- if .Values.image.digest -}}
{{ printf "%s@%s" .Values.image.repository .Values.image.digest | quote }}
{{- else -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
{{- end -}}
{{- end }}

{{/* TOML of a map. Helm has no integers: it would write 900 as 900.0, which is another type. */}}
{{- define "oci-secrets.toml" -}}
{{ regexReplaceAll "(?m)^(\\s*[\\w-]+ = \\d+)\\.0$" (toToml .) "${1}" | trim }}
{{- end }}

{{/* What the plugin adds to containers: the hook on the node. */}}
{{- define "oci-secrets.nri" -}}
socket: {{ .Values.node.nriDirectory }}/nri.sock
hook: {{ .Values.node.hookDirectory }}/oci-secrets-hook
hook-settings: {{ .Values.node.hookDirectory }}/settings.toml
{{- end }}

{{/* Where the broker is: for the hook, and for commands in its pod. */}}
{{- define "oci-secrets.address" -}}
socket: /run/oci-secrets/broker.sock
kubernetes-namespace: {{ .Release.Namespace | quote }}
{{- end }}

{{/* The settings of the broker: those of the values, and those that depend on the mounts of the chart. */}}
{{- define "oci-secrets.settings" -}}
{{- $ours := dict
  "broker" (include "oci-secrets.address" . | fromYaml)
  "nri" (include "oci-secrets.nri" . | fromYaml) -}}
{{- if .Values.metrics.enabled }}{{ $_ := set $ours.broker "metrics" "0.0.0.0:9465" }}{{ end -}}
{{- $connect := dict -}}
{{- if .Values.connect.tokenSecret.name }}{{ $_ := set $connect "token-file" "/var/run/secrets/oci-secrets/connect/token" }}{{ end -}}
{{- if .Values.connect.tokenAudience }}{{ $_ := set $connect "token" (dict "file" "/var/run/secrets/oci-secrets/identity/connect") }}{{ end -}}
{{- if .Values.connect.caConfigMap.name }}{{ $_ := set $connect "ca-file" "/var/run/secrets/oci-secrets/connect-ca/ca.pem" }}{{ end -}}
{{- if $connect }}{{ $_ := set $ours "connect" $connect }}{{ end -}}
{{- if .Values.aws.roleArn -}}
{{- $_ := set $ours "aws-kms" (dict "role-arn" .Values.aws.roleArn "region" .Values.aws.region
  "web-identity-token-file" "/var/run/secrets/oci-secrets/identity/aws") -}}
{{- end -}}
{{- include "oci-secrets.toml" (mustMergeOverwrite (deepCopy .Values.settings) $ours) -}}
{{- end }}

{{/* The settings of the hook. */}}
{{- define "oci-secrets.hook-settings" -}}
{{- $deliver := get .Values.settings "deliver" | default dict -}}
{{- include "oci-secrets.toml" (dict
  "broker" (include "oci-secrets.address" . | fromYaml)
  "deliver" (pick $deliver "deadline")) -}}
{{- end }}

{{/* The first container of every pod: the hook must be on the node before the plugin makes a runtime call it. */}}
{{- define "oci-secrets.install-hook" -}}
- name: install-hook
  image: {{ include "oci-secrets.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/usr/bin/oci-secrets, --settings, /etc/oci-secrets/hook.toml, install-hook, /node]
  # root, because the runtime calls the hook as root, and no other user may be able to replace it.
  securityContext: {{ include "oci-secrets.security" list | nindent 4 }}
  volumeMounts:
    - {name: settings, mountPath: /etc/oci-secrets, readOnly: true}
    - {name: hook, mountPath: /node}
{{- end }}

{{/* root with these capabilities and nothing else. */}}
{{- define "oci-secrets.security" -}}
runAsUser: 0
readOnlyRootFilesystem: true
capabilities: {drop: [ALL], add: {{ toJson . }}}
{{- end }}

{{/* What both daemon sets have in common. */}}
{{- define "oci-secrets.scheduling" -}}
priorityClassName: {{ .Values.priorityClassName | quote }}
nodeSelector: {{ merge (dict "kubernetes.io/os" "linux") .Values.nodeSelector | toJson }}
tolerations: {{ toJson .Values.tolerations }}
imagePullSecrets: {{ toJson .Values.imagePullSecrets }}
securityContext:
  seccompProfile: {type: RuntimeDefault}
  # Where SELinux confines containers, one of this type may connect to the socket of the runtime and write to the node's directories.
  seLinuxOptions: {type: spc_t}
{{- end }}

{{/* The files that the broker reads. */}}
{{- define "oci-secrets.files" -}}
- {name: settings, mountPath: /etc/oci-secrets, readOnly: true}
{{- if .Values.connect.tokenSecret.name }}
- {name: connect, mountPath: /var/run/secrets/oci-secrets/connect, readOnly: true}
{{- end }}
{{- if .Values.connect.caConfigMap.name }}
- {name: connect-ca, mountPath: /var/run/secrets/oci-secrets/connect-ca, readOnly: true}
{{- end }}
{{- if include "oci-secrets.audiences" . }}
- {name: identity, mountPath: /var/run/secrets/oci-secrets/identity, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Tokens of the service account for other audiences than the API server. */}}
{{- define "oci-secrets.audiences" -}}
{{- if .Values.connect.tokenAudience }}
- serviceAccountToken: {path: connect, audience: {{ .Values.connect.tokenAudience | quote }}, expirationSeconds: 3600}
{{- end }}
{{- if .Values.aws.roleArn }}
- serviceAccountToken: {path: aws, audience: sts.amazonaws.com, expirationSeconds: 3600}
{{- end }}
{{- end }}

{{/* Not empty if the broker asks the API server for the service accounts of pods. */}}
{{- define "oci-secrets.asks-api-server" -}}
{{- if hasKey .Values.settings "kubernetes" }}yes{{ end -}}
{{- range .Values.settings.grant }}{{ if hasKey (.to | default dict) "service-account" }}yes{{ end }}{{ end -}}
{{- end }}

{{/* Not empty if the settings keep something on disk. */}}
{{- define "oci-secrets.has-state" -}}
{{- if or (hasKey .Values.settings "outage") (hasKey .Values.settings "break-glass") }}yes{{ end }}
{{- end }}

{{/* 52 characters: the StatefulSet's revision label adds eleven to its name. */}}
{{- define "paf.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "paf.selectorLabels" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "paf.labels" -}}
{{ include "paf.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "paf.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "paf.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "paf.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Ids may hold what names of objects may not; such an id is named by its hash. */}}
{{- define "paf.orgConfigMap" -}}
{{- $id := ternary .id (.id | sha256sum | trunc 16) (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" .id) -}}
{{- printf "%s-org-%s" (include "paf.fullname" .root) $id -}}
{{- end -}}

{{- define "paf.secretProviderClass" -}}
{{- .Values.secretsStore.className | default (include "paf.fullname" .) -}}
{{- end -}}

{{/* The chart's own keys win: the schema keeps them out of .Values.forwarder. */}}
{{- define "paf.forwarderToml" -}}
{{- $listen := printf "%s:%d" .Values.admin.address (int .Values.admin.port) -}}
{{- $own := dict "state_dir" "/var/lib/pulumi-audit-forwarder" "allow_group_readable_secrets" true "admin" (dict "listen" $listen) -}}
{{- mergeOverwrite (deepCopy .Values.forwarder) $own | toToml -}}
{{- end -}}

{{- define "paf.claim" -}}
{{- .Values.persistence.existingClaim | default (printf "state-%s-0" (include "paf.fullname" .)) -}}
{{- end -}}

{{- define "paf.podMetadata" -}}
{{- $values := .root.Values -}}
labels:
  {{- include "paf.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .daemon | ternary "daemon" "maintenance" }}
  {{- if $values.azureWorkloadIdentity.enabled }}
  azure.workload.identity/use: "true"
  {{- end }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  # The only key of forwarder.toml that waits for a start and is not in the pod's own definition.
  pulumi-audit-forwarder/log-format: {{ dig "log" "format" "auto" $values.forwarder }}
  {{- with $values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* The pod, for the daemon and for maintenance. Pod Security "restricted". */}}
{{- define "paf.podSpec" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- with $values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
serviceAccountName: {{ include "paf.serviceAccountName" $root }}
# The daemon never asks the API server; the tokens of the clouds' identities are volumes of their own.
automountServiceAccountToken: false
# Variables of a Service called `paf` would be taken for keys of forwarder.toml.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- with $values.runAs.user }}
  runAsUser: {{ int . }}
  {{- end }}
  {{- with $values.runAs.group }}
  runAsGroup: {{ int . }}
  {{- end }}
  {{- with $values.runAs.fsGroup }}
  fsGroup: {{ int . }}
  {{- end }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
terminationGracePeriodSeconds: {{ int $values.terminationGracePeriodSeconds }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: forwarder
    image: {{ include "paf.image" $root | quote }}
    imagePullPolicy: {{ $values.image.pullPolicy }}
    args:
      {{- toYaml .args | nindent 6 }}
    {{- with $values.extraEnv }}
    env:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if .daemon }}
    ports:
      - name: metrics
        containerPort: {{ int $values.admin.port }}
    startupProbe:
      httpGet: {path: /livez, port: metrics}
      {{- toYaml $values.startupProbe | nindent 6 }}
    livenessProbe:
      httpGet: {path: /livez, port: metrics}
      {{- toYaml $values.livenessProbe | nindent 6 }}
    readinessProbe:
      httpGet: {path: /readyz, port: metrics}
      {{- toYaml $values.readinessProbe | nindent 6 }}
    {{- end }}
    resources:
      {{- toYaml $values.resources | nindent 6 }}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop: [ALL]
    volumeMounts:
      - name: state
        mountPath: /var/lib/pulumi-audit-forwarder
      # Whole directories, never a subPath: only those are updated while the pod runs.
      - name: config
        mountPath: /etc/pulumi-audit-forwarder
        readOnly: true
      - name: orgs
        mountPath: /etc/pulumi-audit-forwarder/orgs
        readOnly: true
      - name: tmp
        mountPath: /tmp
      {{- if include "paf.secretSources" $root }}
      - name: secrets
        mountPath: /secrets
        readOnly: true
      {{- end }}
      {{- if include "paf.tokenSources" $root }}
      - name: pulumi-tokens
        mountPath: /var/run/secrets/pulumi
        readOnly: true
      {{- end }}
      {{- if $values.secretsStore.enabled }}
      - name: secrets-store
        mountPath: /secrets-store
        readOnly: true
      {{- end }}
      {{- with $values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  {{- if or $values.persistence.existingClaim (not .daemon) }}
  - name: state
    persistentVolumeClaim:
      claimName: {{ include "paf.claim" $root }}
  {{- end }}
  - name: config
    configMap:
      name: {{ include "paf.fullname" $root }}
  - name: orgs
    projected:
      sources:
        {{- range $id := keys $values.orgs | sortAlpha }}
        - configMap:
            name: {{ include "paf.orgConfigMap" (dict "root" $root "id" $id) }}
        {{- end }}
        {{- range $values.orgConfigMaps }}
        - configMap:
            name: {{ . }}
        {{- end }}
  - name: tmp
    emptyDir:
      sizeLimit: 64Mi
  {{- with include "paf.secretSources" $root }}
  - name: secrets
    projected:
      # fsGroup makes it 0440.
      defaultMode: 0400
      sources:
        {{- . | nindent 8 }}
  {{- end }}
  {{- with include "paf.tokenSources" $root }}
  - name: pulumi-tokens
    projected:
      sources:
        {{- . | nindent 8 }}
  {{- end }}
  {{- if $values.secretsStore.enabled }}
  - name: secrets-store
    csi:
      driver: secrets-store.csi.k8s.io
      readOnly: true
      volumeAttributes:
        secretProviderClass: {{ include "paf.secretProviderClass" $root }}
      {{- with $values.secretsStore.nodePublishSecret }}
      nodePublishSecretRef:
        name: {{ . }}
      {{- end }}
  {{- end }}
  {{- with $values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "paf.secretSources" -}}
{{- $sources := list -}}
{{- range $id := keys .Values.orgs | sortAlpha -}}
{{- with (get $.Values.orgs $id).secret -}}
{{- $items := list -}}
{{- range .keys -}}
{{- $items = append $items (dict "key" . "path" (printf "%s/%s" $id .)) -}}
{{- end -}}
{{- $sources = append $sources (dict "secret" (dict "name" .name "items" $items)) -}}
{{- end -}}
{{- end -}}
{{- range .Values.sharedSecrets -}}
{{- $sources = append $sources (dict "secret" (dict "name" .)) -}}
{{- end -}}
{{- if $sources -}}{{- toYaml $sources -}}{{- end -}}
{{- end -}}

{{- define "paf.tokenSources" -}}
{{- $sources := list -}}
{{- range $id := keys .Values.orgs | sortAlpha -}}
{{- with (get $.Values.orgs $id).pulumiTokenAudience -}}
{{- $sources = append $sources (dict "serviceAccountToken" (dict "path" $id "audience" . "expirationSeconds" 3600)) -}}
{{- end -}}
{{- end -}}
{{- if $sources -}}{{- toYaml $sources -}}{{- end -}}
{{- end -}}

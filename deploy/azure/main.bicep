// What pulumi-audit-forwarder needs in Azure: tables, a data collection rule, the role on it, its error log, and alert rules for Microsoft Sentinel.
// azuredeploy.json beside this file means the same. docs/azure.md says how to use either.

targetScope = 'resourceGroup'

@description('Name of the Log Analytics workspace that Microsoft Sentinel uses. It lies in this resource group.')
param workspaceName string

@description('Region of the workspace, where the data collection rule must lie too.')
param location string = resourceGroup().location

@description('Object id (principal id) of the identity that the forwarder runs as: of a managed identity, or of the enterprise application of an app registration.')
param principalId string

@description('Which columns the forwarder sends, as `columns` in its configuration.')
@allowed([
  'extended'
  'official'
  'connector'
])
param columns string = 'extended'

@description('Name of the data collection rule, and of the endpoint with privateLink.')
param ruleName string = 'pulumi-audit-forwarder'

@description('Plan of the tables. Alert rules need Analytics.')
@allowed([
  'Analytics'
  'Basic'
])
param plan string = 'Analytics'

@description('Days in which the tables can be queried as the plan Analytics has it, 4 to 730; -1 is the workspace\'s default. Set anew by each deployment, also for a table that exists.')
@minValue(-1)
@maxValue(730)
param retentionInDays int = -1

@description('Days after which rows are removed, 4 to 4383; -1 is retentionInDays. Set anew by each deployment, also for a table that exists.')
@minValue(-1)
@maxValue(4383)
param totalRetentionInDays int = -1

@description('Rows are taken through a data collection endpoint without public access, to be connected to your private link scope. Otherwise the rule has an endpoint of its own.')
param privateLink bool = false

@description('A table and a stream for heartbeats, by which silence can be told from an organization in which nothing happens.')
param heartbeat bool = true

@description('The three alert rules of Pulumi\'s own connector. Leave them out while that connector\'s are there.')
param analyticRules bool = true

@description('Resource id of the workspace that gets the data collection rule\'s error log; empty is the same workspace.')
param diagnosticWorkspaceId string = ''

var roleId = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '3913510d-42f4-4e42-8a64-420c390055eb')

// The arrays of columns are written by the tests, from the definition that the forwarder makes its rows by.
var tableColumns = [
  { name: 'TimeGenerated', type: 'dateTime' }
  { name: 'Timestamp_d', type: 'long' }
  { name: 'SourceIP_s', type: 'string' }
  { name: 'Event_s', type: 'string' }
  { name: 'Description_s', type: 'string' }
  { name: 'UserName_s', type: 'string' }
  { name: 'UserLogin_s', type: 'string' }
  { name: 'UserAvatarUrl_s', type: 'string' }
  { name: 'TokenID_s', type: 'string' }
  { name: 'TokenName_s', type: 'string' }
  { name: 'ActorName_s', type: 'string' }
  { name: 'ActorUrn_s', type: 'string' }
  { name: 'RequireOrgAdmin_b', type: 'boolean' }
  { name: 'RequireStackAdmin_b', type: 'boolean' }
  { name: 'AuthFailure_b', type: 'boolean' }
  { name: 'EventKey_s', type: 'string' }
  { name: 'OrgName_s', type: 'string' }
  { name: 'OrgId_s', type: 'string' }
  { name: 'EventTime_t', type: 'dateTime' }
  { name: 'IngestMode_s', type: 'string' }
  { name: 'Chunk_d', type: 'long' }
  { name: 'RawEvent', type: 'dynamic' }
]

var heartbeatTableColumns = [
  { name: 'TimeGenerated', type: 'dateTime' }
  { name: 'OrgId_s', type: 'string' }
  { name: 'OrgName_s', type: 'string' }
  { name: 'Version_s', type: 'string' }
  { name: 'State_s', type: 'string' }
  { name: 'Reason_s', type: 'string' }
  { name: 'CollectedUntil_t', type: 'dateTime' }
  { name: 'DeliveredUntil_t', type: 'dateTime' }
  { name: 'BacklogEvents_d', type: 'long' }
  { name: 'Quarantined_d', type: 'long' }
  { name: 'HolesSeconds_d', type: 'long' }
  { name: 'DamagedSeconds_d', type: 'long' }
  { name: 'UnsettledSeconds_d', type: 'long' }
]

var extendedColumns = [
  { name: 'TimeGenerated', type: 'datetime' }
  { name: 'Timestamp_d', type: 'long' }
  { name: 'SourceIP_s', type: 'string' }
  { name: 'Event_s', type: 'string' }
  { name: 'Description_s', type: 'string' }
  { name: 'UserName_s', type: 'string' }
  { name: 'UserLogin_s', type: 'string' }
  { name: 'UserAvatarUrl_s', type: 'string' }
  { name: 'TokenID_s', type: 'string' }
  { name: 'TokenName_s', type: 'string' }
  { name: 'ActorName_s', type: 'string' }
  { name: 'ActorUrn_s', type: 'string' }
  { name: 'RequireOrgAdmin_b', type: 'boolean' }
  { name: 'RequireStackAdmin_b', type: 'boolean' }
  { name: 'AuthFailure_b', type: 'boolean' }
  { name: 'EventKey_s', type: 'string' }
  { name: 'OrgName_s', type: 'string' }
  { name: 'OrgId_s', type: 'string' }
  { name: 'EventTime_t', type: 'datetime' }
  { name: 'IngestMode_s', type: 'string' }
  { name: 'Chunk_d', type: 'long' }
  { name: 'RawEvent', type: 'dynamic' }
]

var officialColumns = [
  { name: 'TimeGenerated', type: 'datetime' }
  { name: 'Timestamp_d', type: 'long' }
  { name: 'SourceIP_s', type: 'string' }
  { name: 'Event_s', type: 'string' }
  { name: 'Description_s', type: 'string' }
  { name: 'UserName_s', type: 'string' }
  { name: 'UserLogin_s', type: 'string' }
  { name: 'UserAvatarUrl_s', type: 'string' }
  { name: 'TokenID_s', type: 'string' }
  { name: 'TokenName_s', type: 'string' }
  { name: 'ActorName_s', type: 'string' }
  { name: 'ActorUrn_s', type: 'string' }
  { name: 'RequireOrgAdmin_b', type: 'boolean' }
  { name: 'RequireStackAdmin_b', type: 'boolean' }
  { name: 'AuthFailure_b', type: 'boolean' }
]

var connectorColumns = [
  { name: 'timestamp', type: 'long' }
  { name: 'sourceIP', type: 'string' }
  { name: 'event', type: 'string' }
  { name: 'description', type: 'string' }
  { name: 'user', type: 'dynamic' }
  { name: 'tokenID', type: 'string' }
  { name: 'tokenName', type: 'string' }
  { name: 'actorName', type: 'string' }
  { name: 'actorUrn', type: 'string' }
  { name: 'reqOrgAdmin', type: 'boolean' }
  { name: 'reqStackAdmin', type: 'boolean' }
  { name: 'authFailure', type: 'boolean' }
]

var heartbeatColumns = [
  { name: 'TimeGenerated', type: 'datetime' }
  { name: 'OrgId_s', type: 'string' }
  { name: 'OrgName_s', type: 'string' }
  { name: 'Version_s', type: 'string' }
  { name: 'State_s', type: 'string' }
  { name: 'Reason_s', type: 'string' }
  { name: 'CollectedUntil_t', type: 'datetime' }
  { name: 'DeliveredUntil_t', type: 'datetime' }
  { name: 'BacklogEvents_d', type: 'long' }
  { name: 'Quarantined_d', type: 'long' }
  { name: 'HolesSeconds_d', type: 'long' }
  { name: 'DamagedSeconds_d', type: 'long' }
  { name: 'UnsettledSeconds_d', type: 'long' }
]

// Pulumi's poller sends events as they are, and so does the forwarder with `connector`: the rule makes rows of them.
var connectorTransform = '''
source
| project
    TimeGenerated = datetime(1970-01-01) + timestamp * 1s,
    Timestamp_d = timestamp,
    SourceIP_s = sourceIP,
    Event_s = event,
    Description_s = description,
    UserName_s = tostring(user.name),
    UserLogin_s = tostring(user.githubLogin),
    UserAvatarUrl_s = tostring(user.avatarUrl),
    TokenID_s = tokenID,
    TokenName_s = tokenName,
    ActorName_s = actorName,
    ActorUrn_s = actorUrn,
    RequireOrgAdmin_b = iff(isnull(reqOrgAdmin), false, reqOrgAdmin),
    RequireStackAdmin_b = iff(isnull(reqStackAdmin), false, reqStackAdmin),
    AuthFailure_b = iff(isnull(authFailure), false, authFailure)
'''

var streams = {
  extended: {
    name: 'Custom-PulumiAuditLogs_CL'
    declaration: {
      'Custom-PulumiAuditLogs_CL': {
        columns: extendedColumns
      }
    }
    transform: 'source'
  }
  official: {
    name: 'Custom-PulumiAuditLogs_CL'
    declaration: {
      'Custom-PulumiAuditLogs_CL': {
        columns: officialColumns
      }
    }
    transform: 'source'
  }
  connector: {
    name: 'Custom-PulumiAuditLogs'
    declaration: {
      'Custom-PulumiAuditLogs': {
        columns: connectorColumns
      }
    }
    transform: connectorTransform
  }
}

var heartbeatDeclaration = {
  'Custom-PulumiAuditHeartbeat_CL': {
    columns: heartbeatColumns
  }
}

var eventFlow = {
  streams: [
    streams[columns].name
  ]
  destinations: [
    'workspace'
  ]
  transformKql: streams[columns].transform
  outputStream: 'Custom-PulumiAuditLogs_CL'
}

var heartbeatFlow = {
  streams: [
    'Custom-PulumiAuditHeartbeat_CL'
  ]
  destinations: [
    'workspace'
  ]
  transformKql: 'source'
  outputStream: 'Custom-PulumiAuditHeartbeat_CL'
}

// How the forwarder's configuration calls the cloud that this is deployed to.
var clouds = {
  AzureCloud: 'public'
  AzureUSGovernment: 'usgov'
  AzureChinaCloud: 'china'
}

var failuresQuery = '''
PulumiAuditLogs_CL
| where AuthFailure_b == true
| summarize Failures = count() by SourceIP_s, bin(TimeGenerated, 15m)
| where Failures > 5
'''

var deletedQuery = '''
PulumiAuditLogs_CL
| where Event_s == "stack-deleted"
'''

var membersQuery = '''
PulumiAuditLogs_CL
| where Event_s in ("member-added", "member-removed", "member-role-changed")
'''

// An incident for each alert.
var incident = {
  createIncident: true
  groupingConfiguration: {
    enabled: false
    reopenClosedIncident: false
    lookbackDuration: 'PT5H'
    matchingMethod: 'AllEntities'
    groupByEntities: []
    groupByAlertDetails: []
    groupByCustomDetails: []
  }
}

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-07-01' existing = {
  name: workspaceName
}

resource table 'Microsoft.OperationalInsights/workspaces/tables@2025-07-01' = {
  parent: workspace
  name: 'PulumiAuditLogs_CL'
  properties: {
    plan: plan
    retentionInDays: plan == 'Analytics' ? retentionInDays : null
    totalRetentionInDays: totalRetentionInDays
    schema: {
      name: 'PulumiAuditLogs_CL'
      columns: tableColumns
    }
  }
}

resource heartbeatTable 'Microsoft.OperationalInsights/workspaces/tables@2025-07-01' = if (heartbeat) {
  parent: workspace
  name: 'PulumiAuditHeartbeat_CL'
  properties: {
    plan: plan
    retentionInDays: plan == 'Analytics' ? retentionInDays : null
    totalRetentionInDays: totalRetentionInDays
    schema: {
      name: 'PulumiAuditHeartbeat_CL'
      columns: heartbeatTableColumns
    }
  }
}

resource endpoint 'Microsoft.Insights/dataCollectionEndpoints@2023-03-11' = if (privateLink) {
  name: ruleName
  location: location
  properties: {
    description: 'Takes the audit events of Pulumi Cloud from pulumi-audit-forwarder, through a private link only.'
    networkAcls: {
      publicNetworkAccess: 'Disabled'
    }
  }
}

resource rule 'Microsoft.Insights/dataCollectionRules@2023-03-11' = {
  name: ruleName
  location: location
  kind: privateLink ? null : 'Direct'
  properties: {
    description: 'Takes the audit events of Pulumi Cloud from pulumi-audit-forwarder.'
    dataCollectionEndpointId: privateLink ? endpoint.id : null
    streamDeclarations: union(streams[columns].declaration, heartbeat ? heartbeatDeclaration : {})
    destinations: {
      logAnalytics: [
        {
          name: 'workspace'
          workspaceResourceId: workspace.id
        }
      ]
    }
    dataFlows: heartbeat ? [
      eventFlow
      heartbeatFlow
    ] : [
      eventFlow
    ]
  }
  dependsOn: [
    table
    heartbeatTable
  ]
}

// Monitoring Metrics Publisher, on this rule alone.
resource publisher 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: rule
  name: guid(rule.id, principalId, roleId)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: roleId
  }
}

// Azure accepts rows before it looks at them; what it could not store is told here, in the table DCRLogErrors, and nowhere else.
resource errorLog 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  scope: rule
  name: 'errors'
  properties: {
    workspaceId: empty(diagnosticWorkspaceId) ? workspace.id : diagnosticWorkspaceId
    logAnalyticsDestinationType: 'Dedicated'
    logs: [
      {
        category: 'LogErrors'
        enabled: true
      }
    ]
  }
}

resource failures 'Microsoft.SecurityInsights/alertRules@2024-09-01' = if (analyticRules && plan == 'Analytics') {
  scope: workspace
  name: guid(workspace.id, 'pulumi-excessive-authentication-failures')
  kind: 'Scheduled'
  properties: {
    displayName: 'Pulumi Cloud - Excessive Authentication Failures'
    description: 'More than five authentication failures in Pulumi Cloud from one address in a quarter of an hour.'
    severity: 'Medium'
    enabled: true
    query: failuresQuery
    queryFrequency: 'PT15M'
    queryPeriod: 'PT15M'
    triggerOperator: 'GreaterThan'
    triggerThreshold: 0
    suppressionDuration: 'PT1H'
    suppressionEnabled: false
    tactics: [
      'CredentialAccess'
      'InitialAccess'
    ]
    techniques: [
      'T1110'
    ]
    entityMappings: [
      {
        entityType: 'IP'
        fieldMappings: [
          {
            identifier: 'Address'
            columnName: 'SourceIP_s'
          }
        ]
      }
    ]
    eventGroupingSettings: {
      aggregationKind: 'SingleAlert'
    }
    incidentConfiguration: incident
  }
  dependsOn: [
    table
  ]
}

resource deleted 'Microsoft.SecurityInsights/alertRules@2024-09-01' = if (analyticRules && plan == 'Analytics') {
  scope: workspace
  name: guid(workspace.id, 'pulumi-stack-deleted')
  kind: 'Scheduled'
  properties: {
    displayName: 'Pulumi Cloud - Stack Deleted'
    description: 'A stack was deleted in Pulumi Cloud, and with it what Pulumi knew of its resources.'
    severity: 'Medium'
    enabled: true
    query: deletedQuery
    queryFrequency: 'PT5M'
    queryPeriod: 'PT5M'
    triggerOperator: 'GreaterThan'
    triggerThreshold: 0
    suppressionDuration: 'PT1H'
    suppressionEnabled: false
    tactics: [
      'Impact'
    ]
    techniques: [
      'T1485'
    ]
    entityMappings: [
      {
        entityType: 'Account'
        fieldMappings: [
          {
            identifier: 'Name'
            columnName: 'UserLogin_s'
          }
        ]
      }
      {
        entityType: 'IP'
        fieldMappings: [
          {
            identifier: 'Address'
            columnName: 'SourceIP_s'
          }
        ]
      }
    ]
    eventGroupingSettings: {
      aggregationKind: 'SingleAlert'
    }
    incidentConfiguration: incident
  }
  dependsOn: [
    table
  ]
}

resource members 'Microsoft.SecurityInsights/alertRules@2024-09-01' = if (analyticRules && plan == 'Analytics') {
  scope: workspace
  name: guid(workspace.id, 'pulumi-organization-membership-change')
  kind: 'Scheduled'
  properties: {
    displayName: 'Pulumi Cloud - Organization Membership Change'
    description: 'Somebody was added to or removed from an organization in Pulumi Cloud, or has another role in it.'
    severity: 'Low'
    enabled: true
    query: membersQuery
    queryFrequency: 'PT5M'
    queryPeriod: 'PT5M'
    triggerOperator: 'GreaterThan'
    triggerThreshold: 0
    suppressionDuration: 'PT1H'
    suppressionEnabled: false
    tactics: [
      'Persistence'
    ]
    techniques: [
      'T1098'
    ]
    entityMappings: [
      {
        entityType: 'Account'
        fieldMappings: [
          {
            identifier: 'Name'
            columnName: 'UserLogin_s'
          }
        ]
      }
      {
        entityType: 'IP'
        fieldMappings: [
          {
            identifier: 'Address'
            columnName: 'SourceIP_s'
          }
        ]
      }
    ]
    eventGroupingSettings: {
      aggregationKind: 'SingleAlert'
    }
    incidentConfiguration: incident
  }
  dependsOn: [
    table
  ]
}

@description('For the org\'s file. Put your identity in place of the last line: docs/credentials.md.')
output sentinelSection string = join(concat([
  '[sentinel]'
  'endpoint = "${privateLink ? endpoint.properties.logsIngestion.endpoint : rule.properties.endpoints.logsIngestion}"'
  'rule_id = "${rule.properties.immutableId}"'
  'stream = "${streams[columns].name}"'
  'columns = "${columns}"'
], heartbeat ? [
  'heartbeat_stream = "Custom-PulumiAuditHeartbeat_CL"'
] : [], [
  'cloud = "${clouds[environment().name]}"'
  'identity = { kind = "managed_identity" }'
]), '\n')

@description('The scope on which a further identity would need the role.')
output ruleResourceId string = rule.id

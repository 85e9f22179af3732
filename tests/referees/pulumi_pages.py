"""Pages an audit log to its end with Pulumi's own client, the way its users do: follow the token until there is none."""

import json
import os
import sys

from pulumi_cloud_sdk import ApiClient, Configuration
from pulumi_cloud_sdk.apis import OrganizationsApi

PAGES_MAX = 1000

host, org, start, end = sys.argv[1:5]
configuration = Configuration()
configuration.host = host
configuration.access_token = os.environ["PULUMI_TOKEN"]
api = OrganizationsApi(ApiClient(configuration))

events, pages, token = [], 0, None
while pages < PAGES_MAX:
    page = api.list_audit_log_events_handler_v2(
        org, start_time=int(start), end_time=int(end), continuation_token=token
    )
    pages += 1
    for event in page.audit_log_events or []:
        events.append([event.timestamp, event.event, event.description, event.user.github_login])
    token = page.continuation_token
    if not token:
        break

print(json.dumps({"pages": pages, "events": events}))

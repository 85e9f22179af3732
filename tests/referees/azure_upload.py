"""Uploads rows with Microsoft's own clients, and tells what became of them."""

import json
import os
import sys

from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.identity import ClientSecretCredential
from azure.monitor.ingestion import LogsIngestionClient

authority, endpoint, rule, stream, tenant, client_id, count, ca = sys.argv[1:9]

credential = ClientSecretCredential(
    tenant,
    client_id,
    os.environ["CLIENT_SECRET"],
    authority=authority,
    disable_instance_discovery=True,
    connection_verify=ca,
)
client = LogsIngestionClient(endpoint=endpoint, credential=credential, connection_verify=ca)
rows = [
    {
        "TimeGenerated": "2026-11-21T10:15:00.000000Z",
        "Timestamp_d": 1795256100 + number,
        "Event_s": "stack-deleted",
        "Description_s": f'Zoë deleted stack "shop/{number}" ' + "x" * 600,
        "AuthFailure_b": False,
    }
    for number in range(int(count))
]
try:
    client.upload(rule_id=rule, stream_name=stream, logs=rows)
    print(json.dumps({"uploaded": len(rows)}))
except ClientAuthenticationError as error:
    print(json.dumps({"error": "ClientAuthenticationError", "message": str(error)}))
except HttpResponseError as error:
    code = error.error.code if error.error else None
    print(json.dumps({"error": "HttpResponseError", "status": error.status_code, "code": code}))

"""The CloudFormation templates: clean, no secret in the open, and what docs/operations.md promises of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dotenv
import pytest
from cfnlint.decode import cfn_yaml

from api.launch import PROJECT

AWS = PROJECT / "deploy" / "aws"
TEMPLATES = ("network.yaml", "platform.yaml")
# libpq reads it itself.
NOT_OURS = {"PGSSLMODE"}


@pytest.fixture(scope="module")
def platform() -> dict[str, Any]:
    """The template of the platform."""
    found: dict[str, Any] = cfn_yaml.load(str(AWS / "platform.yaml"))
    return found


def _of_type(platform: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [each["Properties"] for each in platform["Resources"].values() if each["Type"] == kind]


def _containers(platform: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for task in _of_type(platform, "AWS::ECS::TaskDefinition"):
        yield from task["ContainerDefinitions"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_template_is_clean(template: str) -> None:
    command = [str(Path(sys.executable).with_name("cfn-lint")), "--", str(AWS / template)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_no_secret_stands_in_the_open(platform: dict[str, Any]) -> None:
    secret = ("PASSWORD", "_API_KEY", "METRICS_KEY", "ENCRYPTION_KEY", "DB_USER", "DATABASE_URL")
    for container in _containers(platform):
        shown = [each["Name"] for each in container.get("Environment", ())]
        assert [name for name in shown if name.endswith(secret)] == []
    assert [name for name in platform["Parameters"] if name.lower().endswith(("password", "key", "token"))] == []
    database = platform["Resources"]["Database"]["Properties"]
    assert (database["ManageMasterUserPassword"], "MasterUserPassword" in database) == (True, False)


def test_every_variable_is_a_setting_that_the_app_reads(platform: dict[str, Any]) -> None:
    settings = set(dotenv.dotenv_values(PROJECT / ".env.example"))
    named = {
        each["Name"]
        for container in _containers(platform)
        for section in ("Environment", "Secrets")
        for each in container.get(section, ())
    }
    assert {"DB_HOST", "DB_PASSWORD", "ICMP_API_KEY", "KMS_KEY_ID", "RATE_LIMIT_STORAGE_URI"} <= named
    assert named - settings - NOT_OURS == set()


def test_two_tasks_at_least_and_none_is_stopped_before_another_is_healthy(platform: dict[str, Any]) -> None:
    # 0 is for the time before the database has its logins: tasks would end at once, and roll the stack back.
    assert (platform["Parameters"]["DesiredCount"]["Default"], platform["Parameters"]["DesiredCount"]["MinValue"]) == (
        2,
        0,
    )
    service = platform["Resources"]["Service"]["Properties"]
    assert service["DesiredCount"] == {"Ref": "DesiredCount"}
    assert service["DeploymentConfiguration"]["MinimumHealthyPercent"] == 100
    assert service["DeploymentConfiguration"]["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
    assert _of_type(platform, "AWS::ApplicationAutoScaling::ScalableTarget")[0]["MinCapacity"] == {
        "Ref": "DesiredCount"
    }


def test_tls_1_3_only_and_plain_http_is_led_there(platform: dict[str, Any]) -> None:
    listeners = {each["Port"]: each for each in _of_type(platform, "AWS::ElasticLoadBalancingV2::Listener")}
    assert listeners[443]["SslPolicy"] == "ELBSecurityPolicy-TLS13-1-3-2021-06"
    assert listeners[80]["DefaultActions"][0]["RedirectConfig"]["Protocol"] == "HTTPS"


def test_what_is_stored_is_encrypted_doubled_and_restorable(platform: dict[str, Any]) -> None:
    database = platform["Resources"]["Database"]["Properties"]
    assert all(database[name] is True for name in ("MultiAZ", "StorageEncrypted", "DeletionProtection"))
    assert platform["Parameters"]["BackupDays"]["MinValue"] == 7
    buckets = platform["Resources"]["Buckets"]["Properties"]
    assert all(buckets[name] is True for name in ("TransitEncryptionEnabled", "AtRestEncryptionEnabled"))
    assert [key["EnableKeyRotation"] for key in _of_type(platform, "AWS::KMS::Key")] == [True, True]
    assert all("KmsKeyId" in secret for secret in _of_type(platform, "AWS::SecretsManager::Secret"))


def test_the_app_may_do_nothing_at_aws_but_seal_and_open_data_keys(platform: dict[str, Any]) -> None:
    (policy,) = platform["Resources"]["TaskRole"]["Properties"]["Policies"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement["Action"] == ["kms:Encrypt", "kms:Decrypt"]
    assert statement["Resource"] == {"Fn::GetAtt": ["WrappingKey", "Arn"]}
    assert statement["Condition"] == {"Null": {"kms:EncryptionContext:icmp": "false"}}


def test_the_firewall_counts_what_looks_into_bodies_and_blocks_by_rate(platform: dict[str, Any]) -> None:
    (firewall,) = _of_type(platform, "AWS::WAFv2::WebACL")
    rated = [rule for rule in firewall["Rules"] if "RateBasedStatement" in rule["Statement"]]
    assert len(rated) == 3
    assert all("Block" in rule["Action"] for rule in rated)
    groups = [rule["Statement"].get("ManagedRuleGroupStatement") for rule in firewall["Rules"]]
    counted = [each for group in groups if group for each in group.get("RuleActionOverrides", ())]
    assert all(each["ActionToUse"] == {"Count": {}} for each in counted)
    assert {"CrossSiteScripting_BODY", "SizeRestrictions_BODY"} <= {each["Name"] for each in counted}

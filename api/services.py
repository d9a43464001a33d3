"""Services: what a business does for its customers."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

import auth
from api import catalogue, contract
from api.contract import Reply
from db import services

routes = Blueprint("services", __name__)


@routes.post("/services")
@auth.require_business_api_key
@contract.contract(takes="service_create", gives="service", status=201)
def post_service(business_id: str, body: dict[str, Any]) -> Reply:
    """Create a service."""
    return catalogue.post(services.SHELF, business_id, body)


@routes.get("/services")
@auth.require_business_api_key
@contract.contract(gives="service", many=True, query=catalogue.QUERY)
def get_services(business_id: str, query: dict[str, Any]) -> Reply:
    """The business's services, newest first."""
    return catalogue.listed(services.SHELF, business_id, query)


@routes.get("/services/<service_id>")
@auth.require_business_api_key
@contract.contract(gives="service")
def get_service(business_id: str, service_id: str) -> services.Service:
    """One service."""
    return catalogue.get(services.SHELF, business_id, service_id)


@routes.patch("/services/<service_id>")
@auth.require_business_api_key
@contract.contract(takes="service_update", gives="service")
def patch_service(business_id: str, service_id: str, body: dict[str, Any]) -> services.Service:
    """Replace the named fields of a service."""
    return catalogue.patch(services.SHELF, business_id, service_id, body)


@routes.delete("/services/<service_id>")
@auth.require_business_api_key
@contract.contract(status=204)
def delete_service(business_id: str, service_id: str) -> None:
    """Delete a service; orders keep what they hold of it."""
    catalogue.delete(services.SHELF, business_id, service_id)

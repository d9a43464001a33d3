"""Agents: the personas that answer, and the teams of people that take over."""

from __future__ import annotations

import uuid
from typing import Any

from flask import Blueprint

import auth
from api import contract, paging, trail
from api.contract import Reply
from api.parts import alone, changed_setup
from db import agents

routes = Blueprint("agents", __name__)


@routes.post("/agents")
@auth.require_business_api_key
@contract.contract(takes="agent_create", gives="agent", status=201)
def post_agent(business_id: str, body: dict[str, Any]) -> Reply:
    """Create an agent; a default one takes the place of the default before."""
    agent_id = trail.about(str(uuid.uuid4()))
    with changed_setup(business_id) as conn:
        agents.insert(conn, business_id, _fields(body) | {"agent_id": agent_id})
        agent = agents.get(conn, business_id, agent_id)
    return Reply(agent, headers={"Location": f"/api/v1/agents/{agent_id}"})


@routes.get("/agents")
@auth.require_business_api_key
@contract.contract(gives="agent", many=True, query=paging.QUERY)
def get_agents(business_id: str, query: dict[str, Any]) -> Reply:
    """The business's agents, newest first."""
    page = paging.page_of(query)
    rows = agents.list_page(alone(business_id), business_id, page)
    return paging.listed(rows, page, lambda row: (row.created_at, row.agent_id))


@routes.get("/agents/<agent_id>")
@auth.require_business_api_key
@contract.contract(gives="agent")
def get_agent(business_id: str, agent_id: str) -> agents.Agent:
    """One agent."""
    return agents.get(alone(business_id), business_id, agent_id)


@routes.patch("/agents/<agent_id>")
@auth.require_business_api_key
@contract.contract(takes="agent_update", gives="agent")
def patch_agent(business_id: str, agent_id: str, body: dict[str, Any]) -> agents.Agent:
    """Replace the named fields of an agent."""
    with changed_setup(business_id) as conn:
        agents.update(conn, business_id, agent_id, _fields(body))
        return agents.get(conn, business_id, agent_id)


@routes.delete("/agents/<agent_id>")
@auth.require_business_api_key
@contract.contract(status=204)
def delete_agent(business_id: str, agent_id: str) -> None:
    """Delete an agent; its stages and conversations go on without one."""
    with changed_setup(business_id) as conn:
        agents.delete(conn, business_id, agent_id)


def _fields(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "business_id"}

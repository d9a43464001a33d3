"""HTTP: the routes under /api/v1, the seed's unversioned paths, and what surrounds every request."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

# By name: the process that starts a server and waits for its end needs none of what it serves, which takes 40 MiB.
RESOURCES = (
    "businesses",
    "keys",
    "users",
    "login",
    "agents",
    "templates",
    "stages",
    "stage_try",
    "messages",
    "conversations",
    "ledger",
    "events",
    "analytics",
    "products",
    "services",
    "orders",
    "config",
    "audit",
)


def register(app: Flask) -> None:
    """Put every route and every handler on the app."""
    from flask import Blueprint

    from api import (
        businesses,
        conversations,
        errors,
        headers,
        messages,
        metrics_page,
        observation,
        openapi,
        platform,
        save_config,
        stages,
        trail,
    )

    observation.register(app, app.extensions["icmp"].traces)
    errors.register(app)
    headers.register(app)
    trail.register(app)
    versioned = Blueprint("v1", __name__, url_prefix="/api/v1")
    for resource in RESOURCES:
        versioned.register_blueprint(import_module(f"api.{resource}").routes)
    app.register_blueprint(versioned)
    app.register_blueprint(save_config.routes)
    app.register_blueprint(platform.routes)
    app.register_blueprint(metrics_page.routes)
    openapi.register(app)
    # The paths of the first sketch, answered by the same views.
    app.add_url_rule("/businesses", "seed_post_business", businesses.post_business, methods=["POST"])
    app.add_url_rule("/stages", "seed_post_stage", stages.post_stage, methods=["POST"])
    app.add_url_rule("/message", "seed_post_message", messages.post_message, methods=["POST"])
    app.add_url_rule(
        "/conversations/<user_id>", "seed_get_conversations", conversations.get_conversations_of_user, methods=["GET"]
    )

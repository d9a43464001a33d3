"""People with a login, and an app where many of them log in from one address."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

from flask import Flask

import app as application
from api.settings import Settings
from tests.conftest import Answer, Client

PASSWORD = "a long pass phrase"
LOGIN = "/api/v1/auth/login"
LIST = "/api/v1/users"


def behind_proxy(settings: Settings) -> Flask:
    """An app that believes X-Forwarded-For when it comes from this machine."""
    app = application.create_app(replace(settings, trusted_proxies=(ip_network("127.0.0.0/8"),)))
    app.config["CHECK_REPLIES"] = True
    return app


def generous(settings: Settings) -> Flask:
    """The same with a login bucket that does not run empty."""
    limitless = replace(settings, rate_limit_login_burst=100_000, rate_limit_login_per_minute=1_000_000)
    return behind_proxy(limitless)


def address() -> str:
    """An address that nobody else has."""
    return f"{uuid.uuid4().hex}@example.com"


@dataclass(frozen=True)
class Person:
    """Somebody who can log in."""

    user_id: str
    email: str
    password: str = PASSWORD

    def login(self, port: int, **fields: Any) -> Answer:
        """Log in, as this person."""
        return Client(port).post(LOGIN, {"email": self.email, "password": self.password, **fields})

    def client(self, port: int, **fields: Any) -> Client:
        """The person, logged in."""
        answer = self.login(port, **fields)
        assert answer.status == 200, answer.body
        return Client(port, answer.body["token"], answer.body["user"]["business_id"])


def hire(business: Client, role: str, **fields: Any) -> Person:
    """A new member with a login."""
    email = address()
    created = business.post(LIST, {"role": role, "email": email, "password": PASSWORD, **fields})
    assert created.status == 201, created.body
    return Person(created.body["user_id"], email)

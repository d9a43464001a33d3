"""Made-up set-ups of businesses, valid and awkward, each from its seed."""

from __future__ import annotations

import random
from typing import Any

SECTIONS = ("agents", "templates", "stages", "products", "services")
TEXTS = [
    "plain",
    "two\nlines\n",
    "\n leading",
    "trailing \nspaces  ",
    "tab\there",
    "null",
    "no",
    "~",
    "1e5",
    "-0",
    "010",
    "9:30",
    "2026-11-23",
    "# no comment",
    "- item",
    "key: value",
    "'quoted\" both",
    "{{ message }}",
    "é 漢字 🐦",
    "a\x85b\u2028c",
    "\ufeff",
    "bell\x07",
    "word " * 60 + "end",
    "long and\nfolded " + "x" * 150,
    "\r\n",
    "\U0010ffff",
    "<<",
    "a\n\n\n",
    "  two  spaces " * 20,
]


def stage(name: str = "reply", **changes: Any) -> dict[str, Any]:
    """A stage of a document."""
    return {"stage_name": name, "stage_type": "support", "stage_description": "Anything."} | changes


class Maker:
    """Made-up set-ups that are valid."""

    def __init__(self, seed: int) -> None:
        self.any = random.Random(seed)

    def document(self) -> dict[str, Any]:
        """As PUT /api/v1/config takes it."""
        agents = [
            self._some(
                agent_name=name,
                agent_description=self.text,
                agent_type="human",
                instructions=self.text,
                model_settings={"temperature": 0.5, "max_tokens": 9},
            )
            for name in self._names("agent")
        ]
        if agents:
            agents[0]["is_default"] = self.any.random() < 0.5
        templates = [
            {
                "template_id": f"own.{number}",
                "kind": "response_generation",
                "text": f"{self.text()} {{{{ cart }}}}",
                "input_variables": ["cart"],
            }
            for number in range(self.any.randint(0, 3))
        ]
        stages = [self._a_stage(name, agents, templates) for name in self._names("stage")]
        offers = {section: [self._offer(name, section) for name in self._names(section)] for section in SECTIONS[3:]}
        settings = {"messages_per_minute": 7} if self.any.random() < 0.5 else {}
        business = self._some(business_description=self.text, address=self.text, settings=settings)
        return {"version": 1, "business": business, "agents": agents, "templates": templates, "stages": stages} | offers

    def text(self) -> str:
        """A text that YAML could get wrong."""
        return "".join(self.any.choice(TEXTS) for _ in range(self.any.randint(1, 3)))

    def _names(self, kind: str) -> list[str]:
        return [f"{kind} {number} {self.any.choice(TEXTS)[:20]}" for number in range(self.any.randint(0, 4))]

    def _some(self, **fields: Any) -> dict[str, Any]:
        kept = {name: value for name, value in fields.items() if name.endswith("_name") or self.any.random() < 0.6}
        return {name: value() if callable(value) else value for name, value in kept.items()}

    def _a_stage(self, name: str, agents: list[Any], templates: list[Any]) -> dict[str, Any]:
        fields = [f"field_{letter}" for letter in self.any.sample("abcdef", 3)]
        schema = {
            "type": "object",
            "properties": {each: {"type": "string", "description": self.text()} for each in fields},
            "required": fields[:1],
        }
        prompts = [{"text": self.text(), "model_settings": {"seed": 1}}, {"template_id": "icmp.response_generation"}]
        prompts += [{"template_id": template["template_id"]} for template in templates]
        method = self.any.choice(
            [
                {"method": "none"},
                {"method": "prompt_user"},
                {
                    "method": "database_query",
                    "config": {"source": "products", "search": "{{ data.field_a }}", "limit": 3},
                },
                {
                    "method": "api_call",
                    "config": {
                        "url": "https://api.example/{{ message }}",
                        "headers": {"X-B": "b", "X-A": "a"},
                        "body": {"b": [1, 1.5, None, True], "a": self.text()},
                        "method": "POST",
                    },
                },
            ]
        )
        fields_given = self._some(
            data_extraction={"output_schema": schema, "require_quote": True, "prompt": {"text": self.text()}},
            stage_selection={"next_stages": [name], "context_data_fields": {"cart": "metadata.cart"}},
            data_retrieval=method,
            stage_selection_example_conversations=self.text,
        )
        reply = {
            "prompt": self.any.choice(prompts),
            "context_data_fields": {"cart": "metadata.cart"},
            "fallback_text": self.text(),
            "fixed_text": None,
        }
        agent = {"agent_name": self.any.choice(agents)["agent_name"]} if agents else {}
        return stage(name, stage_description=self.text(), response_generation=reply) | fields_given | agent

    def _offer(self, name: str, section: str) -> dict[str, Any]:
        attributes: dict[str, Any] = {"b": self.text(), "a": [1, 2.0, 1e50, 1e-9, True], "2026": None, "no": {"~": {}}}
        extra = {"duration_minutes": 30} if section == "services" else {}
        priced = {"price": self.any.choice([0, 6, 24.99, 0.0001]), "currency": "GBP"} if self.any.random() < 0.7 else {}
        sku = {"sku": name.split(" ")[1] + "-x"} if self.any.random() < 0.5 else {}
        return (
            {"name": name}
            | self._some(description=self.text, attributes=attributes, active=False)
            | extra
            | priced
            | sku
        )

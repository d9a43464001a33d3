"""Products: the things that a business sells."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

import auth
from api import catalogue, contract
from api.contract import Reply
from db import products

routes = Blueprint("products", __name__)


@routes.post("/products")
@auth.require_business_api_key
@contract.contract(takes="product_create", gives="product", status=201)
def post_product(business_id: str, body: dict[str, Any]) -> Reply:
    """Create a product."""
    return catalogue.post(products.SHELF, business_id, body)


@routes.get("/products")
@auth.require_business_api_key
@contract.contract(gives="product", many=True, query=catalogue.QUERY)
def get_products(business_id: str, query: dict[str, Any]) -> Reply:
    """The business's products, newest first."""
    return catalogue.listed(products.SHELF, business_id, query)


@routes.get("/products/<product_id>")
@auth.require_business_api_key
@contract.contract(gives="product")
def get_product(business_id: str, product_id: str) -> products.Product:
    """One product."""
    return catalogue.get(products.SHELF, business_id, product_id)


@routes.patch("/products/<product_id>")
@auth.require_business_api_key
@contract.contract(takes="product_update", gives="product")
def patch_product(business_id: str, product_id: str, body: dict[str, Any]) -> products.Product:
    """Replace the named fields of a product."""
    return catalogue.patch(products.SHELF, business_id, product_id, body)


@routes.delete("/products/<product_id>")
@auth.require_business_api_key
@contract.contract(status=204)
def delete_product(business_id: str, product_id: str) -> None:
    """Delete a product; orders keep what they hold of it."""
    catalogue.delete(products.SHELF, business_id, product_id)

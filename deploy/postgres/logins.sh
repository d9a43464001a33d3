#!/bin/sh
# Run by the image of PostgreSQL when its volume is empty.
set -eu
psql --set=owner_password="$DB_OWNER_PASSWORD" --set=web_password="$DB_PASSWORD" --set=database="$POSTGRES_DB" \
    --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --no-psqlrc --quiet --file=/logins.sql

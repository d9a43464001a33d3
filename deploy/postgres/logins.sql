-- The two logins of production, made once by an administrator of the server, before the first migration:
--   icmp_owner  owns the database and runs migrations (MIGRATION_DATABASE_URL)
--   icmp_web    is the app's (DATABASE_URL, DB_USER); it has nothing but the role icmp_app
-- psql --set=owner_password=… --set=web_password=… --set=database=icmp --file=deploy/postgres/logins.sql "$ADMIN_URL"
\set ON_ERROR_STOP on

CREATE ROLE icmp_app NOLOGIN;
CREATE ROLE icmp_lookup NOLOGIN;
CREATE ROLE icmp_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE icmp_web LOGIN NOINHERIT PASSWORD :'web_password';

-- The owner becomes icmp_lookup to hand it the functions that it owns; neither login inherits anything of these roles,
-- or policies would show them tenants' rows. The owner must inherit what a database's owner may; PostgreSQL 15 knows
-- inheritance only for whole roles, hence one in between that has none.
CREATE ROLE icmp_becomes NOLOGIN NOINHERIT;
GRANT icmp_app, icmp_lookup TO icmp_becomes;
GRANT icmp_becomes TO icmp_owner;
GRANT icmp_app TO icmp_web;

-- An administrator who is no superuser (RDS) must be a member of the new owner.
GRANT icmp_owner TO CURRENT_USER;
ALTER DATABASE :"database" OWNER TO icmp_owner;
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO icmp_web;

#!/bin/sh
# Run once by the Postgres image on an empty volume: a database for each server, each with an owner of its own.
# The passwords come from files and go in on standard input, never in a command line.
set -eu
for name in prefect mlflow; do
    password=$(cat "/run/secrets/${name}_database_password")
    psql --no-psqlrc --set ON_ERROR_STOP=1 --username postgres --dbname postgres <<SQL
CREATE ROLE $name LOGIN PASSWORD '$password';
CREATE DATABASE $name OWNER $name;
SQL
done

#!/bin/sh
# As Quay's own: every script of conf/init, in the order of their names, then supervisord.
export DB_CONNECTION_POOLING_REGISTRY=true
for script in "$QUAYCONF"/init/*.sh; do
    echo "Running init script '$script'"
    "$script" || exit
done
exec supervisord -c "$QUAYCONF/supervisord.conf"

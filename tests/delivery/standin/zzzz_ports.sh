#!/bin/sh
# Not of Quay: containers share the machine's network here, so two of them cannot have our usual
# ports for /metrics. Runs after our hook.
file=$QUAYCONF/supervisord.conf
sed -i 's/,nginx/,nginx --admin-listen 127.0.0.1:0/; s/switch watch/switch watch --admin-listen 127.0.0.1:0/' "$file"

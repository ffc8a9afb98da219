#!/bin/sh
# As Quay does at each start: its files are written anew, from what the image has.
mkdir -p /tmp/temp
cp "$QUAYCONF"/templates/nginx/* "$QUAYCONF/nginx/"
sed "s/@PORT@/$QUAY_PORT/" "$QUAYCONF/templates/nginx/nginx.conf" >"$QUAYCONF/nginx/nginx.conf"
cp "$QUAYCONF/templates/supervisord.conf" "$QUAYCONF/supervisord.conf"

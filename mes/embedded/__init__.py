"""A PostgreSQL and an MQTT broker for one machine: children of ours, under MES_HOME, on 127.0.0.1 only."""

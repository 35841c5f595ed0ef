"""The page that hangs in the plant: figures of the schema `report`, live."""

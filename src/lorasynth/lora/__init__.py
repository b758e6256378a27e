"""LoRAs of one layout: the table, the adapter, the bank of many, and the files of the field."""

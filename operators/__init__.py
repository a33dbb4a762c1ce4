"""How Airflow starts and follows simgap's stages. Never imports torch; imports simgap's light part alone."""

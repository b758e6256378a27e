"""Other people's LoRAs become a zoo: found, paired with people, looked over, taken in once each."""

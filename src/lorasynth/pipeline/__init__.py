"""From a zoo to a synthesizer: the settings of every stage, the folder in which stages leave their results, and the stages."""

"""The owner's path: mark a model of one's own, and judge a suspect outside of an experiment."""

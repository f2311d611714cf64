"""Questions asked of every head: what changes if this were different?"""
